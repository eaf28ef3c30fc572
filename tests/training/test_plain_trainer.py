"""transformers' own Trainer with our models: what everybody's script does needs no special case."""

from pathlib import Path

import numpy as np
import pytest
import torch
from every_family import assert_close
from families import TINY_VIT
from torch import Tensor
from transformers import AutoModelForImageClassification, EvalPrediction, Trainer, TrainingArguments

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification


def rows(number: int = 12) -> list[dict[str, Tensor | int]]:
    """Random images of three classes."""
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 32, 32, generator=generator), "labels": n % 3} for n in range(number)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """As the examples compute it, of one array of logits."""
    return {"accuracy": float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def arguments(folder: Path, **options) -> TrainingArguments:
    """A short run on the CPU."""
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_steps": 2}
    return TrainingArguments(str(folder), **quiet | {"per_device_train_batch_size": 4} | options)


@pytest.mark.parametrize("distilled", [False, True], ids=["one head", "two heads"])
def test_predictions_are_one_array_of_logits(distilled: bool, tmp_path: Path):
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT, use_distillation_token=distilled))
    trainer = Trainer(model, arguments(tmp_path), compute_metrics=accuracy, train_dataset=rows(), eval_dataset=rows())
    trainer.train()
    found = trainer.predict(rows())
    with torch.no_grad():
        expected = model.eval()(torch.stack([row["pixel_values"] for row in rows()])).logits
    assert_close(torch.from_numpy(found.predictions), expected)
    assert found.metrics["test_accuracy"] == np.mean(expected.argmax(dim=-1).numpy() == found.label_ids)
    trainer.save_model(tmp_path / "saved")
    reopened = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    assert_close(reopened(rows()[0]["pixel_values"][None]).logits, expected[:1])


def test_accumulated_steps_are_those_of_one_batch(tmp_path: Path):
    states = []
    for batch, steps in ((12, 1), (4, 3)):
        torch.manual_seed(0)
        model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT))
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "optim": "sgd"}
        # Adam's steps would not show a gradient that is too large.
        Trainer(model, arguments(tmp_path, learning_rate=0.5, **options), train_dataset=rows()).train()
        states.append(list(model.parameters()))
    assert_close(states[1], states[0], tolerance=1e-4)


def test_arguments_can_checkpoint_every_second_block(tmp_path: Path):
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT))
    options = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}}
    Trainer(model, arguments(tmp_path, **options), train_dataset=rows()).train()
    assert [block.gradient_checkpointing for block in model.vit.encoder.blocks] == [True, False, True]
