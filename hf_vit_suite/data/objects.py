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
    label = parts_of_item(data[0], 0)[1] if len(data) else 0
    if label is None:
        return Features(image)
    if is_text(label):
        return Features(image | {"text": List(Value("string")) if isinstance(label, list) else Value("string")})
    # Later items may have decimals where the first has none; whole decimals are classes all the same.
    classes = getattr(data, "classes", None)
    kind = ClassLabel(names=[str(name) for name in classes]) if classes else Value("float64")
    return Features(image | {"label": List(kind) if isinstance(label, list) else kind})


def is_text(label: Any) -> bool:
    """Whether a label is a caption, or a list of captions."""
    return isinstance(label, str) or (isinstance(label, list) and bool(label) and isinstance(label[0], str))


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
    """Yields rows of images and their labels or captions.

    Raises:
        ValueError: If an item is no image, or has another kind of label than the first.
    """
    has_classes, first = bool(getattr(data, "classes", None)), None
    for number in range(len(data)):
        image, label = parts_of_item(data[number], number)
        try:
            row = {"image": as_image(image)}
        except ValueError as error:
            raise ValueError(f"image {number} of the data set is a {error}") from error
        first = kind_of(label) if first is None else first
        if kind_of(label) != first:
            raise ValueError(f"item {number} of the data set has {kind_of(label)} where the first has {first}")
        if label is not None and not is_text(label):
            label = whole(label, number) if has_classes else label
            row["label"] = label
        elif label is not None:
            row["text"] = label
        yield row


def kind_of(label: Any) -> str:
    """What a label is, in words.

    Raises:
        ValueError: If it is a whole number that a float does not hold.
    """
    if label is None:
        return "no label"
    if isinstance(label, list):
        return "a list of texts" if is_text(label) else "a list of numbers"
    if isinstance(label, int) and abs(label) > 2**53:
        raise ValueError(f"the label {label} is too large: number the classes from 0")
    return "a text" if is_text(label) else "a number"


def whole(label: float | list, number: int) -> int | list[int]:
    """The number or numbers of classes.

    Raises:
        ValueError: If one has decimals, as the data set has classes.
    """
    if isinstance(label, list):
        return [whole(part, number) for part in label]
    if label != int(label):
        raise ValueError(f"item {number} of the data set has the label {label}, but the data set has classes")
    return int(label)
