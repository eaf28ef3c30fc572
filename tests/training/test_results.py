"""A trained model is written whatever happens to its metrics, figures and card."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from references_of_training import TINY_PRESET, make_colours
from transformers import AutoModelForImageClassification, AutoModelForPreTraining

from hf_vit_suite.cli import main
from hf_vit_suite.evaluation import plots
from hf_vit_suite.training import finetune, mae, recipe

QUICK = (
    "--max_steps", "2", "--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "True",
    "--per_device_train_batch_size", "8",
)  # fmt: skip
DECODER = (
    ",decoder_hidden_size=16,decoder_num_hidden_layers=1,decoder_num_attention_heads=2,decoder_intermediate_size=32"
)


def fail(*arguments) -> Figure:
    """A figure that can't be drawn."""
    raise RuntimeError("no such glyph")


def test_a_classifier_outlives_its_figures(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture):
    data = make_colours(tmp_path / "data", images_a_class=8, names=("$20_$50", "a", "b"))
    out = tmp_path / "out"
    command = ["finetune", "--dataset", str(data), "--output_dir", str(out), *TINY_PRESET, *QUICK,
               "--eval_strategy", "no", "--load_best_model_at_end", "False"]  # fmt: skip
    assert main(command) == 0
    assert (out / "confusion_matrix.png").is_file()
    monkeypatch.setattr(plots, "confusion_figure", fail)
    with caplog.at_level(logging.WARNING):
        assert main([*command, "--overwrite_output_dir"]) == 0
    assert "confusion_matrix.png could not be drawn and is left out: RuntimeError: no such glyph" in caplog.text
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label[0] == "$20_$50"
    assert (out / "curves.png").is_file()
    assert not (out / "confusion_matrix.png").exists(), "it is the replaced model's"
    assert "confusion_matrix.png" not in (out / "README.md").read_text()


def test_a_killed_figure_leaves_the_model(tmp_path: Path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    data, out = make_colours(tmp_path / "data", images_a_class=8), tmp_path / "out"
    monkeypatch.setattr(finetune, "training_curves", interrupted)
    command = ["finetune", "--dataset", str(data), "--output_dir", str(out), *TINY_PRESET, *QUICK,
               "--eval_strategy", "no", "--load_best_model_at_end", "False"]  # fmt: skip
    assert main(command) == 130
    assert AutoModelForImageClassification.from_pretrained(out).config.num_labels == 3
    assert (out / "metrics.json").is_file()


def test_previews_that_fail_do_not_stop_pretraining(
    pictures: Path, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(mae, "reconstruction_figure", fail)
    out = tmp_path / "out"
    overrides = ["--config_overrides", TINY_PRESET[3] + DECODER, "--preview_steps", "1"]
    with caplog.at_level(logging.WARNING):
        assert main(["pretrain", "mae", "--dataset", str(pictures), "--output_dir", str(out), *overrides, *QUICK]) == 0
    for name in ("step-00000001.png", "step-00000002.png", "reconstruction.png"):
        assert f"{name} could not be drawn" in caplog.text
    assert AutoModelForPreTraining.from_pretrained(out).num_parameters()


def fail_anywhere(*arguments: Any) -> Any:
    """A stage that fails."""
    raise OSError("no space left on device")


def train(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, **stages: Any) -> int:
    """Fine-tunes with other stages; returns the exit code."""
    changed = dataclasses.replace(finetune.FINETUNE, **stages)
    with monkeypatch.context() as patched:
        patched.setattr(finetune, "FINETUNE", changed)
        return main(["finetune", "--dataset", str(data), "--output_dir", str(out), *TINY_PRESET, *QUICK,
                     "--eval_strategy", "no", "--overwrite_output_dir"])  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "warning", "lost"),
    [
        ("card", "the model card README.md could not be written and is left out", {"README.md"}),
        ("figures", "the figures could not be drawn and are left out", set()),
        ("reload_check", "out was saved but could not be compared", set()),
    ],
)
def test_results_that_fail_after_the_weights_are_warnings(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture, stage: str, warning: str, lost: set[str]
):
    data, out = make_colours(tmp_path / "data", images_a_class=8), tmp_path / "out"
    assert train(monkeypatch, data, out) == 0
    with caplog.at_level(logging.WARNING):
        assert train(monkeypatch, data, out, **{stage: fail_anywhere}) == 0
    assert f"{warning}: OSError: no space left on device" in caplog.text
    assert AutoModelForImageClassification.from_pretrained(out).config.num_labels == 3
    assert json.loads((out / "metrics.json").read_text())["metrics"]
    assert (out / "README.md").exists() == ("README.md" not in lost), "an older card is the replaced model's"


def test_metrics_that_fail_leave_the_trained_weights_and_no_metrics_of_the_replaced_model(
    tmp_path: Path, monkeypatch, capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
):
    data, out = make_colours(tmp_path / "data", images_a_class=8), tmp_path / "out"
    assert train(monkeypatch, data, out) == 0
    (out / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        assert train(monkeypatch, data, out, report=fail_anywhere) == 1
    assert f"{out} holds the trained model, which could not be measured" in caplog.text
    assert capfd.readouterr().err.strip().splitlines()[-1] == "error: no space left on device"
    assert AutoModelForImageClassification.from_pretrained(out).config.num_labels == 3
    assert (out / "preprocessor_config.json").is_file()
    assert not (out / "metrics.json").exists()
    assert not (out / "README.md").exists()


def test_adapters_are_merged_before_anything_is_measured(run_command, tmp_path: Path, monkeypatch):
    data, out, seen = make_colours(tmp_path / "data", images_a_class=8), tmp_path / "out", []

    def report(run: recipe.Run) -> dict:
        seen.append((type(run.trainer.model).__name__, (out / "model.safetensors").is_file()))
        return finetune.report(run)

    changed = dataclasses.replace(finetune.FINETUNE, report=report)
    monkeypatch.setattr(finetune, "FINETUNE", changed)
    command = ["finetune", "--dataset", str(data), "--output_dir", str(out), *TINY_PRESET, *QUICK, "--lora"]
    run_command(*command, "--eval_strategy", "no")
    assert seen == [("SuiteViTForImageClassification", True)]
