"""Which images of a folder are read: split folders, class folders, other files, links, literal names."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image
from references_of_training import assert_one_line_error, save_tiny_classifier

from hf_vit_suite.data import load_image_dataset, load_unlabelled_images


def make_images(folder: Path, number: int = 4) -> None:
    """Images right in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")


def make_classes(folder: Path, *names: str) -> None:
    """Four images in each class folder."""
    for name in names:
        make_images(folder / name)


def paths(rows) -> set[str]:
    """The files of rows."""
    return {row["image"]["path"] for row in rows}


def labelled(source: Path, **options) -> set[str]:
    """The files that are read with labels."""
    return set.union(*(paths(rows) for rows in load_image_dataset(str(source), **options).splits.values()))


def unlabelled(source: Path, **options) -> set[str]:
    """The files that are read without labels."""
    return paths(load_unlabelled_images(str(source), **options).rows)


every_reader = pytest.mark.parametrize("read", [labelled, unlabelled])
every_way = pytest.mark.parametrize("streaming", [False, True])


@every_way
@pytest.mark.parametrize("names", [("bus", "car", "train"), ("control", "test"), ("dev", "user"), ("Train", "bus")])
def test_class_that_is_called_as_a_split_is_a_class(tmp_path: Path, names: tuple[str, ...], streaming: bool):
    make_classes(tmp_path, *names)
    data = load_image_dataset(str(tmp_path), streaming=streaming)
    assert data.label_names == sorted(names)
    assert labelled(tmp_path, streaming=streaming) == unlabelled(tmp_path, streaming=streaming)
    assert len(unlabelled(tmp_path, streaming=streaming)) == 4 * len(names)


@every_way
@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("TRAINING", "Val", "test")])
def test_split_folders_are_known_in_any_case(tmp_path: Path, names: tuple[str, ...], streaming: bool):
    for name in names:
        make_classes(tmp_path / name, "a", "b")
    (tmp_path / "docs").mkdir()  # holds no image that could be left out
    data = load_image_dataset(str(tmp_path), streaming=streaming)
    assert data.label_names == ["a", "b"]
    assert all(f"/{names[-1]}/" in path for path in paths(data.splits["test"]))
    assert unlabelled(tmp_path, streaming=streaming) == {
        str(tmp_path / names[0] / label / f"{index}.png") for label in "ab" for index in range(4)
    }


@every_reader
@pytest.mark.parametrize(
    "names", [("train", "test", "extra"), ("train", "Training"), ("val", "valid", "train"), ("test", "val")]
)
def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path: Path, names: tuple[str, ...], read: Callable):
    for name in names:
        make_classes(tmp_path / name, "a", "b")
    with pytest.raises(ValueError, match=r"holds the folders .*: expected one folder each for train and"):
        read(tmp_path)


@every_reader
def test_image_outside_the_split_folders_is_refused(tmp_path: Path, read: Callable):
    make_classes(tmp_path / "train", "a", "b")
    make_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"0\.png lies outside the split folders train: move it into one"):
        read(tmp_path)


def test_image_outside_the_class_folders_is_refused_with_labels_and_read_without(tmp_path: Path):
    make_classes(tmp_path, "a", "b")
    make_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"0\.png lies in no class folder: move it into one, or away"):
        labelled(tmp_path)
    assert len(unlabelled(tmp_path)) == 9


def test_splits_below_a_folder_of_images_without_labels_are_refused(tmp_path: Path):
    for name in ("train", "test"):
        make_images(tmp_path / "version1" / name)
    with pytest.raises(ValueError, match="version1 holds split folders, and all images below would be read"):
        unlabelled(tmp_path)


def write_parquet(path: Path) -> None:
    """Twenty images of two classes."""
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("RGB", (8, 8))] * 20, "label": [0, 1] * 10}
    Dataset.from_dict(rows, features=features).to_parquet(path)


@every_reader
@pytest.mark.parametrize("stray", ["images.tar", "x.parquet", "a/x.parquet", "train-images-idx3-ubyte"])
def test_other_kinds_of_data_beside_images_are_refused(tmp_path: Path, stray: str, read: Callable):
    make_classes(tmp_path, "a", "b")
    if stray.startswith("train-images"):
        (tmp_path / stray).write_bytes(b"\0\0\x08\x03" + b"\0\0\0\x01" * 3 + b"\0")
        (tmp_path / stray.replace("images-idx3", "labels-idx1")).write_bytes(b"\0\0\x08\x01\0\0\0\x01\0")
    else:
        write_parquet(tmp_path / stray)
    with pytest.raises(ValueError, match=r"mixes .*move the others away"):
        read(tmp_path)


def test_hidden_files_are_no_data(tmp_path: Path):
    make_classes(tmp_path, "a", "b")
    make_images(tmp_path / ".ipynb_checkpoints", 1)
    (tmp_path / ".cache").mkdir()
    write_parquet(tmp_path / ".cache" / "x.parquet")
    assert len(labelled(tmp_path)) == len(unlabelled(tmp_path)) == 8


@every_reader
def test_files_that_are_never_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Callable):
    make_classes(tmp_path, "a", "b")
    (tmp_path / "more.zip").touch()
    (tmp_path / "a" / "5.HEIC").touch()
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "2 files are not read: a/5.HEIC, more.zip" in caplog.text


def test_further_splits_of_a_source_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    write_parquet(tmp_path / "train.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "train.parquet"))
    loaded = datasets.DatasetDict({"train": rows, "extra": rows})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: loaded)
    with caplog.at_level(logging.WARNING):
        load_image_dataset("somebody/something")
    assert "splits that are not read: extra" in caplog.text


@every_way
@every_reader
def test_linked_folders_are_followed_once(tmp_path: Path, read: Callable, streaming: bool):
    make_classes(tmp_path / "store", "a", "b")
    (tmp_path / "data").mkdir()
    make_images(tmp_path / "data" / "c")
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "data" / "c" / "again").symlink_to(tmp_path / "data")
    assert len(read(tmp_path / "data", streaming=streaming)) == 12


@every_way
@every_reader
@pytest.mark.parametrize("name", ["$SHOP", "${SHOP}s", "~x", "a*", "[x]", "a%41"])
def test_names_are_taken_literally(tmp_path: Path, monkeypatch, name: str, read: Callable, streaming: bool):
    monkeypatch.setenv("SHOP", "elsewhere")
    monkeypatch.chdir(tmp_path)
    for folder in (name, "elsewhere", "elsewheres", "ab"):
        make_classes(tmp_path / folder, "a", name)
    for source in (tmp_path / name, os.path.join(".", name)):
        found = read(source, streaming=streaming)
        assert found == {str(tmp_path / name / label / f"{index}.png") for label in ("a", name) for index in range(4)}


@every_way
def test_parquet_file_in_a_folder_called_as_a_variable_is_that_one(tmp_path: Path, monkeypatch, streaming: bool):
    monkeypatch.setenv("SHOP", "elsewhere")
    (tmp_path / "$SHOP").mkdir()
    write_parquet(tmp_path / "$SHOP" / "train.parquet")
    assert sum(1 for _ in load_unlabelled_images(str(tmp_path / "$SHOP"), streaming=streaming).rows) == 20


def test_name_that_datasets_takes_for_an_archive_is_refused(tmp_path: Path):
    make_classes(tmp_path / "a::b", "a", "b")
    with pytest.raises(ValueError, match=r"takes the :: in .* for a path into an archive: rename it"):
        unlabelled(tmp_path / "a::b", streaming=True)


def test_commands_stop_where_images_would_be_left_out(run_command, tmp_path: Path):
    make_classes(tmp_path / "data", "a", "b")
    write_parquet(tmp_path / "data" / "x.parquet")
    model = save_tiny_classifier(tmp_path / "model")
    for command in (("finetune", "--model", str(model)), ("pretrain", "mae"), ("evaluate", "knn", str(model))):
        result = run_command(*command, "--dataset", str(tmp_path / "data"), check=False)
        assert_one_line_error(result, "mixes a/0.png and x.parquet")
