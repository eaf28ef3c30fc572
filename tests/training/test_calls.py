"""What a model card says of how the run was called."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from references_of_training import TINY_PRESET, make_colours

from hf_vit_suite.training.arguments import (
    DataArguments,
    FinetuneTrainingArguments,
    ModelArguments,
    RecipeArguments,
)
from hf_vit_suite.training.calls import changed_fields, command_line, python_call
from hf_vit_suite.training.contrastive import CLIPTrainingArguments
from hf_vit_suite.training.finetune import finetune
from hf_vit_suite.training.mae import MAEModelArguments, MAERecipeArguments, MAETrainingArguments, pretrain_mae
from hf_vit_suite.training.pretraining import UnlabelledDataArguments
from hf_vit_suite.training.self_distillation import DINOTrainingArguments

TOKEN = "hf_secret"
KERNEL = ["/home/somebody/ipykernel_launcher.py", "-f", "/home/somebody/kernel.json"]
FIXED = {"report_to": "none", "use_cpu": True, "save_strategy": "no", "max_steps": 1, "disable_tqdm": True}


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started by a notebook."""
    monkeypatch.setattr(sys, "argv", KERNEL)
    monkeypatch.setenv("HF_TOKEN", "")


@pytest.mark.usefixtures("kernel")
def test_a_classifier_trained_from_python_says_so_with_its_arguments(tmp_path: Path):
    make_colours(tmp_path / "data", images_a_class=8)
    arguments = FinetuneTrainingArguments(
        output_dir=str(tmp_path / "out"),
        eval_strategy="no",
        load_best_model_at_end=False,
        seed=3,
        hub_token=TOKEN,
        **FIXED,
    )
    arguments.weight_decay = 0.25
    finetune(
        ModelArguments(preset=TINY_PRESET[1], config_overrides=TINY_PRESET[3]),
        DataArguments(dataset=str(tmp_path / "data")),
        RecipeArguments(horizontal_flip=0.0),
        arguments,
    )
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "# called from Python\nfinetune(\n" in card
    assert "    RecipeArguments(horizontal_flip=0.0),\n" in card
    for given in ("seed=3", "weight_decay=0.25", "save_strategy='no'", f"ModelArguments(preset={TINY_PRESET[1]!r}"):
        assert given in card
    for hidden in (TOKEN, "ipykernel", "kernel.json", "accelerator_config", "do_eval", "hf-vit-suite finetune"):
        assert hidden not in card


@pytest.mark.usefixtures("kernel")
def test_an_encoder_pretrained_from_python_says_so_with_its_arguments(pictures: Path, tmp_path: Path):
    overrides = TINY_PRESET[3] + ",decoder_hidden_size=16,decoder_num_hidden_layers=1,decoder_num_attention_heads=2"
    pretrain_mae(
        MAEModelArguments(config_overrides=overrides, mask_ratio=0.5),
        UnlabelledDataArguments(dataset=str(pictures)),
        MAERecipeArguments(preview_steps=0),
        MAETrainingArguments(output_dir=str(tmp_path / "out"), **FIXED),
    )
    card = ModelCard.load(tmp_path / "out" / "README.md").text
    assert "# called from Python\npretrain_mae(\n" in card
    assert "mask_ratio=0.5" in card
    assert "    MAERecipeArguments(preview_steps=0),\n" in card
    for hidden in ("ipykernel", "learning_rate=", "hf-vit-suite pretrain"):
        assert hidden not in card


@pytest.mark.parametrize("form", [["--hub_token", TOKEN], [f"--hub-token={TOKEN}"], ["--hub_t", TOKEN]])
def test_a_command_line_shows_no_token_however_it_is_given(form: list[str]):
    shown = command_line("pretrain mae", ["--dataset", "my data", *form], TOKEN)
    assert shown.startswith("hf-vit-suite pretrain mae --dataset 'my data' ")
    assert TOKEN not in shown


@pytest.mark.parametrize(
    "kind",
    [
        ModelArguments,
        DataArguments,
        RecipeArguments,
        FinetuneTrainingArguments,
        MAETrainingArguments,
        DINOTrainingArguments,
        CLIPTrainingArguments,
    ],
)
def test_default_arguments_have_no_changed_fields(kind: type):
    assert changed_fields(kind()) == {}


def test_settings_that_were_changed_after_construction_are_shown():
    changes = {
        "num_train_epochs": 5,
        "warmup_steps": 10,
        "weight_decay": 0,
        "learning_rate": 1,
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "report_to": ["none"],
        "label_smoothing_factor": 1,
        "do_eval": False,
    }
    arguments = FinetuneTrainingArguments(output_dir="o")
    for name, value in changes.items():
        setattr(arguments, name, value)
    assert changed_fields(arguments) == {"output_dir": "o", **changes}


def test_settings_that_were_changed_in_place_are_shown():
    arguments = DINOTrainingArguments(label_names=["a"])
    arguments.lr_scheduler_kwargs["min_lr"] = 0.5
    arguments.accelerator_config.split_batches = True
    assert changed_fields(arguments) == {
        "label_names": ["a"],
        "lr_scheduler_kwargs": {"min_lr": 0.5},
        "accelerator_config": {"split_batches": True},
    }


def test_a_call_shows_no_object_that_was_derived_before_the_arguments_were_replaced():
    call = python_call("finetune", replace(FinetuneTrainingArguments(output_dir="o"), seed=3))
    assert "seed=3" in call
    assert "output_dir='o'" in call
    assert "accelerator_config" not in call


def test_recorded_values_hold_no_token():
    assert TOKEN not in str(vars(FinetuneTrainingArguments(hub_token=TOKEN))["_derived"])
