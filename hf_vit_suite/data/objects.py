"""Data sets given as Python objects: `datasets` objects, and torch data sets of (image, label)."""

import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import datasets
import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import get_temporary_cache_files_directory
from PIL import Image

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
        ValueError: If the object's type is not supported, or an item can't be read or is not (image, label).
    """
    splits = source if isinstance(source, Mapping) else {"train": source}
    opened = {split: one_split(data) for split, data in splits.items()}
    refuse_other_classes(opened)
    return opened


def refuse_other_classes(splits: Mapping[str, Dataset | IterableDataset]) -> None:
    """Refuses splits that number their classes differently, as numbers would then name other classes.

    Raises:
        ValueError: Naming the column and the two splits.
    """
    first: dict[str, tuple[str, list[str]]] = {}
    for split, data in splits.items():
        for column, feature in (data.features or {}).items():
            if isinstance(feature, ClassLabel):
                other, names = first.setdefault(column, (split, feature.names))
                if names != feature.names:
                    raise ValueError(
                        f"the splits {other} and {split} have different classes in {column}: give all splits the "
                        f"classes of {other}, {', '.join(names[:5])}{', ...' * (len(names) > 5)}"
                    )


def one_split(data: Any) -> Dataset | IterableDataset:
    """Converts one split to a `datasets` object, without its transform or format."""
    if isinstance(data, Dataset | IterableDataset):
        return data.with_format(None)
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, str):
        raise ValueError(
            f"dataset must be a name, a datasets.Dataset, a DatasetDict or a torch Dataset of (image, label), got a "
            f"{type(data).__name__}"
        )
    classes = getattr(data, "classes", None)
    label = ClassLabel(names=[str(name) for name in classes]) if classes else Value("int64")
    try:
        return Dataset.from_generator(
            labelled_rows,
            features=Features({"image": datasets.Image(), "label": label}),
            cache_dir=get_temporary_cache_files_directory(),
            gen_kwargs={"data": data},
            # A hash of the object would miss changes in the files that it reads.
            fingerprint=uuid.uuid4().hex,
        )
    except DatasetGenerationError as error:
        raise ValueError(f"{dataset_name(data)} can't be read: {error.__cause__ or error}") from error


def labelled_rows(data: torch.utils.data.Dataset) -> Iterator[dict]:
    """Yields rows of images and label numbers."""
    for number in range(len(data)):
        item = data[number]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise ValueError(f"item {number} of the data set must be (image, label), got a {type(item).__name__}")
        yield {"image": as_image(item[0], number), "label": int(item[1])}


def as_image(image: Image.Image | np.ndarray | torch.Tensor, number: int) -> Image.Image:
    """Converts an image of a torch data set to a PIL image.

    8-bit tensors are `[channels, height, width]`, 8-bit arrays `[height, width, channels]`.

    Raises:
        ValueError: If the image is of another type, such as a floating-point tensor.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8:
        image = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        return Image.fromarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)
    raise ValueError(
        f"image {number} of the data set is a {getattr(image, 'dtype', type(image).__name__)}: give PIL images or "
        "8-bit values, without a transform, as the recipe augments and normalises them"
    )
