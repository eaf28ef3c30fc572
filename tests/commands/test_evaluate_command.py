"""`hf-vit-suite evaluate` as a subprocess."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import TrainingArguments, ViTImageProcessor

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification
from hf_vit_suite.cli import main
from hf_vit_suite.data import decode_image
from hf_vit_suite.evaluation import evaluate as evaluations
from hf_vit_suite.evaluation.arguments import FeatureArguments
from hf_vit_suite.training.finetune import LabelledDataArguments

NAMES = ("blue", "green", "red")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Noisy pictures in which one channel, the class's, is brightest, 20 of each."""
    random = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for index in range(20):
            pixels = random.integers(0, 120, (16, 16, 3))
            pixels[..., 2 - number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "colours" / name / f"{index}.png")
    return tmp_path / "colours"


def save_classifier(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A tiny classifier with random weights."""
    config = SuiteViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=16,
        patch_size=8,
        id2label=dict(enumerate(names)),
        initializer_range=0.2,
    )
    SuiteViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(run_command, colours: Path, tmp_path: Path):
    """Runs a way to evaluate a tiny classifier on the colours, and returns the process and what it reports."""

    def run(way: str, *arguments: str, model: Path | None = None, **options):
        model = model or save_classifier(tmp_path / "model")
        fixed = ("evaluate", way, str(model), "--dataset", str(colours), "--output_dir", str(tmp_path / "out"))
        result = run_command(*fixed, *arguments, **options)
        metrics = tmp_path / "out" / "metrics.json"
        return result, json.loads(metrics.read_text()) if metrics.exists() else None

    return run


@pytest.mark.parametrize(("way", "said"), [("knn", "k-NN accuracy"), ("linear", "linear probe accuracy")])
def test_features_tell_the_colours_apart(evaluate, tmp_path: Path, way: str, said: str):
    result, report = evaluate(way, "--pooling", "mean")
    metrics = max(report["metrics"].values(), key=lambda row: row["accuracy"]) if way == "knn" else report["metrics"]
    assert metrics["accuracy"] >= 0.8
    assert f"{said} {metrics['accuracy']:.4f}" in result.stdout
    assert "on 6 images" in result.stdout
    assert report["images"] == {"train": 48, "validation": 6, "test": 6}
    assert (report["pooling"], report["random_weights"]) == ("mean", False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", f"{way}.png"}
    assert min(decode_image(tmp_path / "out" / f"{way}.png").size) > 200


def test_few_labels_are_a_share_of_each_class(evaluate):
    report = evaluate("linear", "--label_fraction", "0.25")[1]
    assert report["images"] == {"train": 12, "validation": 6, "test": 6}
    assert report["label_fraction"] == 0.25


def test_untrained_architecture_is_measured_as_a_baseline(evaluate, tmp_path: Path):
    folder = save_classifier(tmp_path / "zero")
    model = SuiteViTForImageClassification.from_pretrained(folder)
    for weight in model.parameters():
        weight.data.zero_()  # its own features are all alike, so only fresh weights can tell the colours apart
    model.save_pretrained(folder)
    report = evaluate("knn", "--random_weights", "--pooling", "mean", model=folder)[1]
    assert report["random_weights"]
    assert report["metrics"]["10"]["accuracy"] >= 0.8


def test_defaults_draw_the_splits_that_finetune_draws():
    ours, data = FeatureArguments(), LabelledDataArguments()
    assert ours.seed == TrainingArguments("unused").seed
    assert (ours.validation_fraction, ours.test_fraction) == (data.validation_fraction, data.test_fraction)


def test_classifier_is_measured_whatever_the_order_of_its_labels(evaluate, tmp_path: Path):
    result, report = evaluate("classification", "--split", "all")
    found = report["metrics"]
    assert sum(row["images"] for row in found["per_class"].values()) == 60
    assert f"accuracy {found['accuracy']:.4f}" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "metrics.json", "confusion_matrix.png", "reliability.png"
    }  # fmt: skip
    turned = tmp_path / "turned"
    model = SuiteViTForImageClassification.from_pretrained(tmp_path / "model")
    order = [2, 0, 1]
    model.classifier.weight.data = model.classifier.weight.data[order]
    model.classifier.bias.data = model.classifier.bias.data[order]
    model.config.id2label = {number: NAMES[old] for number, old in enumerate(order)}
    model.save_pretrained(turned)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(turned)
    again = evaluate("classification", "--split", "all", model=turned)[1]["metrics"]
    assert again["accuracy"] == found["accuracy"]
    assert again["per_class"] == {name: found["per_class"][name] for name in again["per_class"]}


def test_metrics_outlive_a_figure_that_fails(colours: Path, tmp_path: Path, monkeypatch, caplog):
    def fail(*arguments):
        raise RuntimeError("no such glyph")

    command = ["evaluate", "classification", str(save_classifier(tmp_path / "classifier")), "--dataset", str(colours),
               "--output_dir", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    (tmp_path / "out" / "metrics.json").unlink()
    monkeypatch.setattr(evaluations, "confusion_figure", fail)
    assert main(command) == 0
    assert "confusion_matrix.png could not be drawn" in caplog.text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.json", "reliability.png"}


def test_labels_that_the_classifier_does_not_know_are_named(evaluate, tmp_path: Path):
    other = save_classifier(tmp_path / "other", ("blue", "green", "pink"))
    result, report = evaluate("classification", model=other, check=False)
    assert result.returncode == 1
    assert "does not know 1 of the data's labels (red)" in result.stderr.strip().splitlines()[-1]
    assert report is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("knn", "nowhere/nothing"), 1, "nowhere/nothing can't be opened"),
        (("knn", "model", "--dataset", "./nowhere"), 1, "there is no such file or folder"),
        (("linear", "model", "--pooling", "max"), 2, "invalid choice: 'max'"),
        (("fly", "model"), 2, "invalid choice: 'fly'"),
        (("knn",), 2, "required: model"),
        (("knn", "model", "--label_fraction", "1.5"), 1, "--label_fraction must be above 0 and at most 1, got 1.5"),
        (("linear", "model", "--label_fraction", "0.0005"), 1, "labels without a training image: give a larger one"),
        (("knn", "model", "--batch_size", "0"), 1, "batch_size must be at least 1, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_does_not_fit_is_one_line(run_command, tmp_path: Path, arguments: tuple, code: int, message: str):
    save_classifier(tmp_path / "model")
    result = run_command("evaluate", *arguments, check=False)
    assert result.returncode == code
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "outputs").exists()


def test_help_lists_the_ways(run_command):
    text = run_command("evaluate", "--help").stdout
    assert all(way in text for way in ("knn", "linear", "classification"))
    assert "--pooling" in run_command("evaluate", "linear", "--help").stdout


def test_faithfulness_reports_every_method_and_draws_its_curves(colours: Path, tmp_path: Path):
    folder, out = save_classifier(tmp_path / "model"), tmp_path / "out"
    fixed = ["evaluate", "faithfulness", str(folder), "--dataset", str(colours), "--output_dir", str(out)]
    assert main([*fixed, "--split", "all", "--images", "12", "--steps", "4"]) == 0
    report = json.loads((out / "metrics.json").read_text())
    assert set(report["metrics"]) == {"relevance", "gradient", "rollout", "attention", "random"}
    for metrics in report["metrics"].values():
        assert len(metrics["deletion_curve"]) == len(metrics["insertion_curve"]) == 5
        assert metrics["deletion_curve"][0] == pytest.approx(metrics["insertion_curve"][-1], abs=1e-5)
    assert decode_image(out / "curves.png").width > 600
