"""A finished run compares the saved folder with the trained model, and loses nothing where they differ."""

import json
import logging
from pathlib import Path

import pytest
import torch
from references_of_training import save_tiny_classifier, tiny_classifier, weights
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification, PreTrainedModel, TrainingArguments

from hf_vit_suite.training.results import check_reload
from hf_vit_suite.training.trainer import SuiteTrainer


def compare(folder: Path, caplog, model: PreTrainedModel | None = None) -> tuple[dict, str]:
    """What metrics.json then holds and what is warned of, for a folder beside a model, by default that of seed 0."""
    torch.manual_seed(0)
    arguments = TrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True)
    trainer, report = SuiteTrainer(model=model or tiny_classifier(), args=arguments), {"steps": 3}
    pixels = torch.randn(2, 3, 16, 16)
    with caplog.at_level(logging.WARNING, "hf_vit_suite"):
        check_reload(trainer, report, AutoModelForImageClassification, lambda model: model(pixels).logits)
    assert json.loads((folder / "metrics.json").read_text()) == report
    assert report.pop("steps") == 3
    return report["reload"], caplog.messages[-1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The model's folder."""
    torch.manual_seed(0)
    return save_tiny_classifier(tmp_path / "model")


def test_equal_model_is_recorded_with_its_small_difference(folder: Path, caplog):
    reload, message = compare(folder, caplog)
    assert reload["difference"] < 1e-5
    assert "loads through AutoModelForImageClassification with the trained model's output" in message


def multiply_classifier(folder: Path, factor: float) -> None:
    """Changes the saved weights."""
    state = weights(folder)
    state["classifier.weight"] *= factor
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_other_weights_are_a_warning(folder: Path, caplog):
    multiply_classifier(folder, 2.0)
    reload, message = compare(folder, caplog)
    assert reload["difference"] > 0.1
    assert "differs from the trained model's" in message


def test_equal_outputs_of_zero_are_equal(folder: Path, caplog):
    state = weights(folder)
    for name in ("classifier.weight", "classifier.bias"):
        state[name].zero_()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    reload, _ = compare(folder, caplog, model=AutoModelForImageClassification.from_pretrained(folder))
    assert reload == {"difference": 0.0}


def test_weights_that_are_no_numbers_are_a_warning(folder: Path, caplog):
    multiply_classifier(folder, float("nan"))
    reload, message = compare(folder, caplog)
    assert "is not finite" in reload["error"]
    assert "was saved but could not be compared" in message


def test_folder_that_does_not_open_is_a_warning(folder: Path, caplog):
    (folder / "model.safetensors").write_bytes(b"cut off")
    reload, message = compare(folder, caplog)
    assert "SafetensorError" in reload["error"]
    assert "was saved but could not be compared" in message
