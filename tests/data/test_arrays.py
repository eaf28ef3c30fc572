"""Data sets that are arrays: MNIST's IDX files."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from hf_vit_suite.data import decode_image, load_image_dataset, load_unlabelled_images


def write_idx(path: Path, array: np.ndarray) -> None:
    """An IDX file of bytes, compressed where the name says so."""
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Random images and labels of both splits by file name."""
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (40, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": (np.arange(40) % 4).astype(np.uint8),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (8, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(8) % 4).astype(np.uint8),
    }


@pytest.fixture
def folder(arrays: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """The files compressed, as Debian's dataset-fashion-mnist has them."""
    for name, array in arrays.items():
        write_idx(tmp_path / f"{name}.gz", array)
    return tmp_path


def test_images_and_labels_are_the_files(folder: Path, arrays: dict[str, np.ndarray]):
    data = load_image_dataset(str(folder), validation_fraction=0.1)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 36, "validation": 4, "test": 8}
    assert data.label_names == ["0", "1", "2", "3"]
    for row, pixels, label in zip(
        data.splits["test"], arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"], strict=True
    ):
        assert np.array_equal(np.asarray(decode_image(row["image"]))[..., 0], pixels)
        assert row["label"] == label


def test_files_are_read_as_torchvision_reads_them(folder: Path, arrays: dict[str, np.ndarray], tmp_path: Path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in arrays.items():
        write_idx(raw / name, array)
    theirs = FashionMNIST(str(tmp_path), train=False)
    ours = load_image_dataset(str(raw)).splits["test"]
    for row, (image, label) in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(decode_image(row["image"])), np.asarray(image.convert("RGB")))
        assert row["label"] == label


def test_pretraining_reads_the_training_images_alone(folder: Path):
    data = load_unlabelled_images(str(folder))
    assert len(data.rows) == 40
    assert data.rows.column_names == ["image"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:50]),
            r"train-images-idx3-ubyte\.gz can't be read as an IDX",
        ),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x0d\x03")), r"can't be read as an IDX file"),
        (lambda path: write_idx(path, np.zeros((3, 2, 2), np.uint8)), r"has 3 images and 40 labels"),
        (lambda path: path.with_name("train-labels-idx1-ubyte.gz").unlink(), r"train-labels-idx1-ubyte\.gz"),
    ],
    ids=["cut off", "of floats", "too few", "without labels"],
)
def test_bad_file_is_named(folder: Path, change, message: str):
    change(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=message):
        load_image_dataset(str(folder))


def test_idx_files_of_other_names_are_named(tmp_path: Path):
    rng = np.random.default_rng(0)
    for name in ("train", "t10k", "emnist-letters-train"):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", rng.integers(0, 255, (8, 4, 4), np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(8, dtype=np.uint8) % 2)
    ignored = load_image_dataset(str(tmp_path)).reading.ignored
    assert ignored == {
        "no images": ["emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte"]
    }
