"""Models of several labels an image, of one label and of values, wherever predictions are shown or measured."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from references_of_training import TINY_PRESET, make_colours, save_tiny_classifier, tiny_classifier
from transformers import pipeline

from hf_vit_suite.cli import main
from hf_vit_suite.commands.predict import print_predictions
from hf_vit_suite.evaluation.faithfulness import perturbation_curves
from hf_vit_suite.explain.files import Explainer, title
from hf_vit_suite.inference import prediction
from hf_vit_suite.inference.prediction import predict

ONE = {0: "warm"}
KINDS = {
    "several labels": {"problem_type": "multi_label_classification"},
    "one of several": {"problem_type": "single_label_classification"},
    "not said": {},
    "one label": {"id2label": ONE},
    "values": {"problem_type": "regression"},
    "a value": {"problem_type": "regression", "id2label": ONE},
}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def save(folder: Path, kind: str) -> str:
    """A classifier whose logits are far from one another."""
    return str(save_tiny_classifier(folder, initializer_range=0.5, **KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_those_of_the_pipeline(kind: str, picture: Path, tmp_path: Path):
    name = save(tmp_path / "model", kind)
    (found,) = predict(name, [picture])
    expected = pipeline("image-classification", model=name, device="cpu")(str(picture))
    score = "value" if "value" in kind else "probability"
    assert [entry["label"] for entry in found["labels"]] == [entry["label"] for entry in expected]
    assert [entry[score] for entry in found["labels"]] == pytest.approx(
        [entry["score"] for entry in expected], rel=1e-4
    )


def test_the_model_and_its_images_go_to_the_accelerator(picture: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(prediction, "best_device", lambda: torch.device("meta"))
    name = save(tmp_path / "model", "not said")
    opened = prediction.own_labels(name)
    assert opened.device.type == "meta"
    devices = []

    def scores(pixel_values: torch.Tensor) -> torch.Tensor:
        devices.append((pixel_values.device.type, opened.scores(pixel_values).device.type))
        return torch.zeros(len(pixel_values), 3)

    monkeypatch.setattr(prediction, "own_labels", lambda name: opened._replace(scores=scores))
    predict(name, [picture])
    assert devices == [("meta", "meta")]


def test_a_regressions_table_has_values(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    predictions = predict(save(tmp_path / "model", "a value"), [picture])
    print_predictions(predictions)
    printed = capsys.readouterr().out
    assert f"{predictions[0]['labels'][0]['value']:.4g}" in printed
    assert "probability" not in printed


def test_titles_of_explanations_tell_the_score_of_each_kind():
    pixels = torch.randn(1, 3, 16, 16)
    several = tiny_classifier(initializer_range=0.5, **KINDS["several labels"]).eval()
    best = several(pixels).logits.sigmoid().max().item()
    assert title(Explainer(several, None), pixels, "picture.png").endswith(f" ({best:.2f})")
    value = tiny_classifier(initializer_range=0.5, **KINDS["a value"]).eval()
    shown = title(Explainer(value, None), pixels, "picture.png")
    assert shown == f"predicted: warm = {value(pixels).logits.item():.3g}"


def test_curves_of_a_model_of_several_labels_are_the_labels_own_probability():
    model = tiny_classifier(initializer_range=0.5, **KINDS["several labels"]).eval()
    pixels = torch.randn(2, 3, 16, 16)
    deletion, insertion = perturbation_curves(model, pixels, torch.rand(2, 2, 2), steps=2)
    whole = model(pixels).logits.sigmoid().max(dim=-1).values
    torch.testing.assert_close(deletion[:, 0], whole.detach())
    torch.testing.assert_close(insertion[:, -1], whole.detach())


@pytest.mark.parametrize(
    ("way", "kind", "message"),
    [
        ("classification", "a value", "regression needs 1 number for each image, a label of"),
        ("classification", "one label", "the model does not know"),
        ("faithfulness", "values", "predicts values, problem_type regression: faithfulness needs probabilities"),
    ],
)
def test_measures_that_need_another_kind_say_so_in_one_line(way: str, kind: str, message: str, tmp_path: Path, capsys):
    data = make_colours(tmp_path / "data", images_a_class=2)
    name = save(tmp_path / "model", kind)
    assert main(["evaluate", way, name, "--dataset", str(data), "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "out").exists()


QUICK = (
    "--max_steps", "1", "--report_to", "none", "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "True",
    "--eval_strategy", "no", "--load_best_model_at_end", "False",
)  # fmt: skip


def test_fine_tuning_a_model_of_several_labels_makes_one_of_one_label(tmp_path: Path):
    data = make_colours(tmp_path / "data", images_a_class=8)
    name, out = save(tmp_path / "model", "several labels"), tmp_path / "out"
    assert main(["finetune", "--model", name, "--dataset", str(data), "--output_dir", str(out), *QUICK]) == 0
    (found,) = predict(str(out), [data / "red" / "0.png"])
    assert sum(entry["probability"] for entry in found["labels"]) == pytest.approx(1, abs=1e-5)
    assert json.loads((out / "config.json").read_text())["problem_type"] == "single_label_classification"


def test_a_teacher_of_several_labels_is_refused(tmp_path: Path, capsys):
    data = make_colours(tmp_path / "data", images_a_class=8)
    name = save(tmp_path / "teacher", "several labels")
    command = [
        "finetune",
        *TINY_PRESET,
        "--teacher",
        name,
        "--dataset",
        str(data),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert main([*command, *QUICK]) == 1
    assert "has problem_type multi_label_classification: distillation needs" in capsys.readouterr().err
