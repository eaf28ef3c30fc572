"""`hf-vit-suite predict`, `explain` and `models` as subprocesses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from hf_vit_suite import list_presets
from hf_vit_suite.data import decode_image
from hf_vit_suite.version import __version__


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two picture files."""
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for seed, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)).save(path)
    return paths


def test_predictions_equal_the_pipelines(run_command, classifier_folder: Path, pictures: list[Path]):
    found = json.loads(
        run_command("predict", str(classifier_folder), *map(str, pictures), "--top_k", "2", "--json").stdout
    )
    classify = pipeline("image-classification", model=str(classifier_folder))
    for entry, path in zip(found, pictures, strict=True):
        assert entry["image"] == str(path)
        expected = {label["label"]: label["score"] for label in classify(decode_image(path), top_k=2)}
        labels = {label["label"]: label["probability"] for label in entry["labels"]}
        assert labels == pytest.approx(expected, rel=1e-4)


def test_prediction_table_names_images_and_labels(run_command, classifier_folder: Path, pictures: list[Path]):
    table = run_command("predict", str(classifier_folder), str(pictures[0])).stdout
    assert "one.png" in table.replace("\n", "")
    assert all(label in table for label in ("cat", "dog", "owl"))


def test_unreadable_image_is_one_line_and_the_others_are_classified(run_command, classifier_folder, pictures):
    pictures[0].write_bytes(b"")
    result = run_command("predict", str(classifier_folder), *map(str, pictures), "nowhere.png", "--json", check=False)
    assert result.returncode == 1
    assert [entry["image"] for entry in json.loads(result.stdout)] == [str(pictures[1])]
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert "one.png" in errors[0]
    assert "nowhere.png" in errors[1]


def test_explanation_is_a_picture_of_every_head(
    run_command, classifier_folder: Path, pictures: list[Path], tmp_path: Path
):
    out = tmp_path / "figures" / "attention.png"
    assert str(out) in run_command("explain", str(classifier_folder), str(pictures[0]), "--out", str(out)).stdout
    width, height = decode_image(out).size
    assert width > 3 * height  # the image, the mean and two heads side by side
    assert [path.name for path in out.parent.iterdir()] == ["attention.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "nowhere.png"}, "nowhere.png is no readable image"),
        ({"model": "nowhere"}, "nowhere can't be opened"),
        ({"out": "attention.xyz"}, "xyz"),
    ],
)
def test_failed_explanation_is_one_line_and_leaves_nothing(
    run_command, classifier_folder: Path, pictures: list[Path], tmp_path: Path, change: dict, message: str
):
    given = {"model": str(classifier_folder), "image": str(pictures[0]), "out": "attention.png"} | change
    before = sorted(tmp_path.iterdir())
    result = run_command("explain", given["model"], given["image"], "--out", given["out"], check=False)
    assert result.returncode == 1
    assert message in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert sorted(path for path in tmp_path.iterdir() if path.name != "modules") == before


def test_table_of_models_has_every_preset_with_published_sizes(run_command):
    rows = {row["name"]: row for row in json.loads(run_command("models", "--json").stdout)}
    assert list(rows) == list_presets()
    # Multiply-adds as the papers and timm give them: DeiT table 5, ViT-B 17.6, ViT-L 61.6.
    for name, gflops in (
        ("deit_tiny_patch16_224", 1.3),
        ("deit_small_patch16_224", 4.6),
        ("vit_base_patch16_224", 17.6),
        ("vit_large_patch16_224", 61.6),
    ):
        assert rows[name]["gflops"] == pytest.approx(gflops, abs=0.06)
    assert rows["vit_base_patch16_224"]["parameters"] == 86_567_656
    table = run_command("models", "deit_small").stdout
    assert "deit_small_distilled_patch16_224" in table
    assert "vit_base" not in table


def test_usage_errors_exit_with_2_and_version_with_0(run_command):
    for arguments in ((), ("fly",), ("predict",), ("models", "--wings"), ("predict", "m", "i", "--top_k", "0")):
        assert run_command(*arguments, check=False).returncode == 2
    assert run_command("--version").stdout.strip() == __version__
    unknown = run_command("models", "nothing_like_it", check=False)
    assert unknown.returncode == 1
    assert "no preset's name contains 'nothing_like_it'" in unknown.stderr
