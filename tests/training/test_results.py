"""A trained model is written whatever happens to its figures."""

import logging
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from references_of_training import TINY_PRESET, make_colours
from transformers import AutoModelForImageClassification, AutoModelForPreTraining

from hf_vit_suite.cli import main
from hf_vit_suite.training import finetune, mae

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
    monkeypatch.setattr(finetune, "confusion_figure", fail)
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
