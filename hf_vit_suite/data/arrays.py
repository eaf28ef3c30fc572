"""Loads array data sets: scikit-learn's digits, and folders of MNIST's IDX files."""

import gzip
import io
import re
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features
from PIL import Image

IDX_IMAGES = re.compile(r"(?P<split>train|t10k)-images[-.]idx3-ubyte(\.gz)?")
IDX_SPLITS = {"train": "train", "t10k": "test"}


def load_digits() -> Dataset:
    """Loads scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, as PNG."""
    from sklearn import datasets as sklearn_datasets

    digits = sklearn_datasets.load_digits()
    return as_dataset(np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target)


def idx_splits(folder: Path) -> dict[str, Dataset]:
    """Loads the splits of a folder in the layout of MNIST, Fashion-MNIST or KMNIST; empty for any other folder.

    Raises:
        ValueError: If a file is truncated or not an IDX file, or the numbers of images and labels differ.
    """
    splits = {}
    for path in sorted(folder.iterdir()):
        if match := IDX_IMAGES.fullmatch(path.name):
            images, labels = read_idx(path), read_idx(path.with_name(labels_of(path.name)))
            if len(images) != len(labels):
                raise ValueError(f"--dataset {folder}: {path.name} has {len(images)} images and {len(labels)} labels")
            splits[IDX_SPLITS[match["split"]]] = as_dataset(images, labels)
    return splits


def labels_of(images: str) -> str:
    """The name of the file of labels, by that of the images."""
    return re.sub("images(.)idx3", r"labels\1idx1", images)


def read_idx(path: Path) -> np.ndarray:
    """Reads a uint8 array from an IDX file (the format of LeCun's MNIST page), plain or gzip-compressed."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
        if content[:3] != b"\0\0\x08":  # two zeros, then the type code of uint8
            raise ValueError("its first bytes are not those of unsigned bytes in IDX form")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError) as error:
        raise ValueError(f"{path} can't be read as an IDX file: {error}") from error


def as_dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    """Converts 8-bit grey images `[images, height, width]` and their labels to rows of PNG files."""
    names = [str(number) for number in range(int(labels.max()) + 1)]
    rows = {"image": [png(pixels) for pixels in images], "label": labels.tolist()}
    return Dataset.from_dict(rows, features=Features({"image": datasets.Image(), "label": ClassLabel(names=names)}))


def png(pixels: np.ndarray) -> dict:
    """Encodes 8-bit pixels as an image value of `datasets`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}
