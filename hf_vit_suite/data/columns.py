"""Finds the columns of images, labels and captions."""

from collections.abc import Sequence
from typing import Literal

import datasets
from datasets import ClassLabel, Dataset, IterableDataset, List

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "pixel_values", "image_bytes", "bytes")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label", "target", "json.label", "json.labels", "json.cls")
TEXT_COLUMNS = ("text", "caption", "captions", "txt", "sentences", "json.caption", "json.text", "json.captions")
UNDECODED = datasets.Image(decode=False)

Kind = Literal["image", "label", "text"]
USUAL: dict[Kind, tuple[str, ...]] = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS, "text": TEXT_COLUMNS}


def find_name(names: Sequence[str], given: str | None, kind: Kind, source: str, typed: Sequence[str] = ()) -> str:
    """Finds a column: the given one, else one of the right type, else one with a usual name.

    Args:
        names: All columns.
        given: Its name, if it is known.
        kind: What the column holds.
        source: Name of the data set, for errors.
        typed: The columns of the right type.

    Raises:
        ValueError: If there is none.
    """
    if given is not None and given in names:
        return given
    usual = [name for name in USUAL[kind] if name in names]
    found = [name for name in usual if name in typed] + list(typed) + usual
    if given is not None or not found:
        missing = f"no column {given!r}" if given is not None else f"no column that looks like the {kind}"
        raise ValueError(f"--dataset {source} has {missing}: name one of {', '.join(names)} by --{kind}_column")
    return found[0]


def find_column(data: Dataset | IterableDataset, given: str | None, kind: Kind, source: str) -> str:
    """As `find_name`, of a data set."""
    names = data.column_names or list(next(iter(data.take(1)), {}))
    features = data.features or {}
    typed = [name for name in names if is_typed(features.get(name), kind)]
    return find_name(names, given, kind, source, typed)


def is_typed(feature: object, kind: Kind) -> bool:
    """Whether a column's type alone says that it holds images or labels."""
    if kind == "label" and isinstance(feature, List):
        feature = feature.feature
    return isinstance(feature, {"image": datasets.Image, "label": ClassLabel, "text": ()}[kind])


def flat(data: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Flattens nested columns, but not images given as bytes and path."""
    features = data.features or {}
    nested = [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" not in feature]
    return data.flatten() if nested and isinstance(data, Dataset) else data
