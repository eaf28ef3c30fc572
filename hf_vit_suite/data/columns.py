"""Finds the columns of images, labels and captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import datasets
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "pixel_values", "image_bytes", "bytes")
LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label", "target", "json.label", "json.labels", "json.cls")
TEXT_COLUMNS = ("text", "caption", "captions", "txt", "sentences", "json.caption", "json.text", "json.captions")
UNDECODED = datasets.Image(decode=False)

Kind = Literal["image", "label", "text"]
USUAL: dict[Kind, tuple[str, ...]] = {"image": IMAGE_COLUMNS, "label": LABEL_COLUMNS, "text": TEXT_COLUMNS}


def find_name(names: Sequence[str], given: str | None, kind: Kind, source: str, typed: Sequence[str] = ()) -> str:
    """Finds a column: the given one, else one with a usual name, else the only one of the right type.

    Args:
        names: All columns.
        given: Its name, if it is known.
        kind: What the column holds.
        source: Name of the data set, for errors.
        typed: The columns of the right type; among usual names they come first.

    Raises:
        ValueError: If there is none, or several are of the right type.
    """
    if given is not None and given in names:
        return given
    usual = [name for name in USUAL[kind] if name in names]
    found = [name for name in usual if name in typed] + usual
    if given is None and not found and len(typed) > 1:
        raise ValueError(
            f"--dataset {source} has several columns that may be the {kind}, {', '.join(typed)}: choose one by "
            f"--{kind}_column"
        )
    found += typed
    if given is not None or not found:
        missing = f"no column {given!r}" if given is not None else f"no column that looks like the {kind}"
        choice = f": name one of {', '.join(names)} by --{kind}_column" if names else ""
        raise ValueError(f"--dataset {source} has {missing}{choice}")
    return found[0]


def several_columns(names: Sequence[str], given: str | None) -> list[str] | None:
    """The columns that a name with commas lists; None if it is the name of one."""
    listed = given.split(",") if given is not None and given not in names else []
    return listed if len(listed) > 1 and all(name in names for name in listed) else None


def column_names(data: Dataset | IterableDataset) -> list[str]:
    """The columns of a data set; a stream may know them only by its first row."""
    return data.column_names or list(next(iter(data.take(1)), {}))


def find_column(data: Dataset | IterableDataset, given: str | None, kind: Kind, source: str) -> str:
    """As `find_name`, of a data set."""
    names = column_names(data)
    features = data.features or {}
    typed = [name for name in names if is_typed(features.get(name), kind)]
    if given is None and kind == "image":  # such as the number of an image, or of its bytes
        numbers = [name for name in names if is_number(features.get(name))]
        names = [name for name in names if name not in numbers] or names
    return find_name(names, given, kind, source, typed)


def is_number(feature: object) -> bool:
    """Whether a column holds one number a row."""
    return isinstance(feature, Value) and feature.dtype.startswith(("int", "uint", "float", "double", "bool"))


def is_typed(feature: object, kind: Kind) -> bool:
    """Whether a column's type alone says that it holds images or labels."""
    if kind == "label" and isinstance(feature, List):
        feature = feature.feature
    return isinstance(feature, {"image": datasets.Image, "label": ClassLabel, "text": ()}[kind])


def class_names(feature: object) -> list[str] | None:
    """The names of a column of classes or of lists of classes; None for any other column."""
    feature = feature.feature if isinstance(feature, List) else feature
    return feature.names if isinstance(feature, ClassLabel) else None


def refuse_other_classes(
    features: Mapping[str, Mapping[str, object]], source: str, used: Sequence[str] | None = None
) -> None:
    """Refuses splits or files that number their classes differently, as numbers would then name other classes.

    Args:
        features: The features of each split or file.
        source: Name of the data set, for errors.
        used: The columns that are read; default all.

    Raises:
        ValueError: Naming the column and the two parts.
    """
    first: dict[str, tuple[str, list[str]]] = {}
    for part, columns in features.items():
        for column, feature in columns.items():
            if (used is not None and column not in used) or (names := class_names(feature)) is None:
                continue
            other, known = first.setdefault(column, (part, names))
            if names != known:
                raise ValueError(
                    f"--dataset {source}: {other} and {part} have different classes in {column}: give both "
                    f"{', '.join(known[:5])}{', ...' * (len(known) > 5)}"
                )


def flat(data: Dataset | IterableDataset) -> Dataset | IterableDataset:
    """Flattens nested columns, but not images given as bytes and path."""
    while nested := [name for name, feature in (data.features or {}).items() if is_nested(feature)]:
        if isinstance(data, Dataset):
            for name, feature in data.features.items():  # of structures, `flatten` leaves decodable images alone
                if isinstance(feature, datasets.Image) or is_image(feature):
                    data = data.cast_column(name, datasets.Image())
            return data.flatten()
        features = dict(data.features)
        parts = {name: features.pop(name) for name in nested}
        features |= {f"{name}.{part}": kind for name, kinds in parts.items() for part, kind in kinds.items()}
        data = data.map(Unnested(tuple(nested)), remove_columns=nested, features=Features(features))
    return data


def is_nested(feature: object) -> bool:
    """Whether a column holds structures other than images."""
    return isinstance(feature, dict) and not is_image(feature)


def is_image(feature: object) -> bool:
    """Whether a column holds structures of an image's bytes, and perhaps its path."""
    return isinstance(feature, dict) and "bytes" in feature and not is_number(feature["bytes"])


@dataclass(frozen=True)
class Unnested:
    """Makes columns of the parts of structures, named with a dot; for `datasets.map`."""

    columns: tuple[str, ...]

    def __call__(self, row: Mapping) -> dict:
        return {f"{name}.{part}": value for name in self.columns for part, value in (row[name] or {}).items()}
