"""Data sets given as Python objects: `datasets` objects, and torch data sets of images."""

import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import datasets
import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import get_temporary_cache_files_directory

from .image_values import as_image

# A name as in the command line's --dataset, one split, or splits by name.
Source: TypeAlias = str | os.PathLike | Dataset | IterableDataset | torch.utils.data.Dataset | Mapping[str, Any]


def dataset_name(source: Source) -> str:
    """Returns a data set's name for messages and model cards: its name or path, else its type and length."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    if isinstance(source, Mapping):
        splits = ", ".join(f"{split}: {dataset_name(data)}" for split, data in source.items())
        return f"{type(source).__name__} ({splits})"
    return f"{type(source).__name__} of {len(source)} rows" if hasattr(source, "__len__") else type(source).__name__


def object_splits(source: Source) -> dict[str, Dataset | IterableDataset]:
    """Returns the splits of a data set object; a single split is `train`.

    A torch data set is copied once, losslessly, into a temporary Arrow file, because the recipes read encoded images.

    Raises:
        ValueError: If the object's type is not supported, or an item can't be read or is no image with a label or
            caption.
    """
    splits = source if isinstance(source, Mapping) else {"train": source}
    return {split: one_split(data) for split, data in splits.items()}


def one_split(data: Any) -> Dataset | IterableDataset:
    """Converts one split to a `datasets` object, without its transform or format."""
    if isinstance(data, Dataset | IterableDataset):
        return data.with_format(None)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, str):
        raise ValueError(
            f"dataset must be a name, a datasets.Dataset, a DatasetDict or a torch Dataset of (image, label), got a "
            f"{type(data).__name__}"
        )
    try:
        return Dataset.from_generator(
            item_rows,
            features=item_features(data),
            cache_dir=get_temporary_cache_files_directory(),
            gen_kwargs={"data": data},
            # A hash of the object would miss changes in the files that it reads.
            fingerprint=uuid.uuid4().hex,
        )
    except DatasetGenerationError as error:
        raise ValueError(f"{dataset_name(data)} can't be read: {error.__cause__ or error}") from error


def item_features(data: torch.utils.data.Dataset) -> Features:
    """The columns of a torch data set, by its first item: `image`, and `label` or `text` if there is one."""
    image = {"image": datasets.Image()}
    if not len(data):
        return Features(image | {"label": Value("int64")})
    _, label = parts_of_item(data[0], 0)
    classes = getattr(data, "classes", None)
    if label is None:
        return Features(image)
    if isinstance(label, str):
        return Features(image | {"text": Value("string")})
    if isinstance(label, list) and label and isinstance(label[0], str):
        return Features(image | {"text": List(Value("string"))})
    if isinstance(label, list):
        return Features(image | {"label": List(Value("float64" if any_float(label) else "int64"))})
    if isinstance(label, float):
        return Features(image | {"label": Value("float64")})
    return Features(
        image | {"label": ClassLabel(names=[str(name) for name in classes]) if classes else Value("int64")}
    )


def any_float(numbers: list) -> bool:
    """Whether one of the numbers is no whole number's type."""
    return any(isinstance(number, float) for number in numbers)


def parts_of_item(item: Any, number: int) -> tuple[Any, Any]:
    """The image of an item, and its label or caption as a Python value; None if there is none.

    Raises:
        ValueError: If it is neither an image nor (image, label).
    """
    if isinstance(item, Mapping) and "image" in item:
        item = (item["image"], next((item[name] for name in ("label", "labels", "text") if name in item), None))
    elif not isinstance(item, tuple | list):
        item = (item, None)
    if len(item) != 2:
        raise ValueError(f"item {number} of the data set must be an image or (image, label), got {len(item)} parts")
    image, label = item
    if isinstance(label, torch.Tensor | np.ndarray | np.generic):
        label = label.tolist()
    return image, list(label) if isinstance(label, tuple) else label


def item_rows(data: torch.utils.data.Dataset) -> Iterator[dict]:
    """Yields rows of images and their labels or captions."""
    for number in range(len(data)):
        image, label = parts_of_item(data[number], number)
        try:
            row = {"image": as_image(image)}
        except ValueError as error:
            raise ValueError(f"image {number} of the data set is a {error}") from error
        if label is not None:
            is_text = isinstance(label, str) or (isinstance(label, list) and label and isinstance(label[0], str))
            row["text" if is_text else "label"] = label
        yield row
