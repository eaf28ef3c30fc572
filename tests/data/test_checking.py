"""`check`: what is odd in a data set, as report, table and file."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

import hf_vit_suite


def save(path: Path, pixels: int, size: tuple[int, int] = (60, 40)) -> None:
    """A flat picture of this width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (pixels, 0, 0)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two splits of two classes with one image of each fault."""
    folder = tmp_path / "ph[o]tos"
    for split, start in (("train", 0), ("test", 100)):
        for place, label in enumerate(("cat", "d|o$g")):
            for number in range(4):
                save(folder / split / label / f"{number}.png", start + 10 * place + number)
    (folder / "train" / "cat" / "broken.jpg").write_bytes(b"\xff\xd8\xffjunk")
    (folder / "train" / "cat" / "empty.png").write_bytes(b"")
    save(folder / "test" / "cat" / "small.png", 200, (31, 31))
    save(folder / "test" / "cat" / "wide.png", 201, (401, 100))
    shutil.copy(folder / "train" / "cat" / "0.png", folder / "test" / "cat" / "copy.png")
    shutil.copy(folder / "train" / "cat" / "1.png", folder / "train" / "d|o$g" / "copy.png")
    (folder / "notes.txt").write_text("x")
    return folder


def files(paths: list[str], folder: Path) -> list[str]:
    """Names relative to a folder."""
    return [os.path.relpath(path, folder) for path in paths]


@pytest.mark.parametrize("workers", [0, 1])
def test_report_names_each_fault(photos: Path, workers: int):
    report = hf_vit_suite.check(photos, num_workers=workers)
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["images"], test["images"]) == (11, 11)
    assert train["classes"] == {"cat": 6, "d|o$g": 5}
    assert test["classes"] == {"cat": 7, "d|o$g": 4}
    (broken,) = train["unreadable"]
    assert broken.startswith(f"{photos}/train/cat/broken.jpg is no readable image")
    assert files(train["empty"], photos) == ["train/cat/empty.png"]
    assert files(test["tiny"], photos) == ["test/cat/small.png"]
    assert files(test["odd_aspect"], photos) == ["test/cat/wide.png"]
    assert (test["width"], test["height"]) == ([31, 60, 401], [31, 40, 100])
    assert not test["unreadable"] + test["empty"] + train["tiny"] + train["odd_aspect"] + train["unlabelled"]
    groups = [files([image["image"] for image in group], photos) for group in report["duplicates"]]
    across, other = ["train/cat/0.png", "test/cat/copy.png"], ["train/cat/1.png", "train/d|o$g/copy.png"]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, [across, other]))
    assert [files([image["image"] for image in group], photos) for group in report["across_splits"]] == [across]
    assert [files([image["image"] for image in group], photos) for group in report["other_labels"]] == [other]
    assert report["ignored"] == {"no images": {"files": 1, "first": ["notes.txt"]}}


def test_command_prints_tables_writes_the_report_and_fails_where_an_image_does(
    photos: Path, tmp_path: Path, run_command
):
    out = tmp_path / "new" / "report.json"
    done = run_command("check", str(photos), "--output_file", str(out), "--num_workers", "1", check=False)
    assert done.returncode == 1
    assert "11 train and 11 test images in class folders; ignored: notes.txt" in done.stderr
    for text in ("d|o$g", "2 groups of equal images", "broken.jpg is no readable image", "31 - 401"):
        assert text in done.stdout
    assert json.loads(out.read_text()) == hf_vit_suite.check(photos, num_workers=0)
    (photos / "train" / "cat" / "broken.jpg").unlink()
    (photos / "train" / "cat" / "empty.png").unlink()
    assert run_command("check", str(photos), "--num_workers", "0").returncode == 0


@pytest.mark.parametrize("annotations", ["captions", "none"])
def test_captions_and_images_alone_are_checked(tmp_path: Path, annotations: str):
    for number in range(4):
        save(tmp_path / f"{number}.png", number)
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n2.png,\n")
    report = hf_vit_suite.check(tmp_path, annotations=annotations, num_workers=0)
    captions = annotations == "captions"
    assert report["splits"]["train"]["images"] == (3 if captions else 4)
    assert files(report["splits"]["train"]["unlabelled"], tmp_path) == (["2.png"] if captions else [])
    assert files(report["undescribed"], tmp_path) == (["3.png"] if captions else [])
    assert "classes" not in report["splits"]["train"]


class Pictures(torch.utils.data.Dataset):
    """A torch data set of two classes; two pictures are equal."""

    classes = ("red", "blue")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (40, 40), (min(number, 2), 0, 0)), number % 2


def test_objects_and_secret_labels_are_checked():
    report = hf_vit_suite.check(Pictures(), num_workers=0)
    assert report["splits"]["train"]["classes"] == {"blue": 2, "red": 2}
    assert [[image["labels"] for image in group] for group in report["other_labels"]] == [[["red"], ["blue"]]]
    rows = {"image": [Image.fromarray(np.full((40, 40, 3), n, np.uint8)) for n in range(3)], "label": [-1, 0, None]}
    data = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["a", "b"]))
    report = hf_vit_suite.check(DatasetDict(train=data), num_workers=0)
    assert report["splits"]["train"]["unlabelled"] == ["train row 0", "train row 2"]
    assert report["splits"]["train"]["classes"] == {"a": 1}


def test_several_labels_are_counted_one_by_one(tmp_path: Path):
    for number in range(4):
        save(tmp_path / f"{number}.png", number)
    rows = [{"file_name": f"{number}.png", "label": ["ab"[number % 2], "c"]} for number in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert hf_vit_suite.check(tmp_path, num_workers=0)["splits"]["train"]["classes"] == {"a": 2, "b": 2, "c": 4}


def test_an_unknown_kind_of_annotations_is_refused():
    with pytest.raises(ValueError, match="'boxes'"):
        hf_vit_suite.check("digits", annotations="boxes")


def test_what_cannot_be_opened_is_one_line(tmp_path: Path, run_command):
    failed = run_command("check", str(tmp_path / "missing"), "--output_file", str(tmp_path / "r.json"), check=False)
    assert failed.returncode == 1
    assert failed.stderr.strip().splitlines()[-1].endswith("there is no such file or folder")
    assert not (tmp_path / "r.json").exists()
