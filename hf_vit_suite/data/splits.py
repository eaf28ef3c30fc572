"""Makes splits with the columns `image` and `label` or `text` of data sets with any columns and split names."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset, IterableDataset

from .columns import class_names, column_names, find_column, flat, refuse_other_classes, several_columns
from .image_values import encoded_images
from .layout import OUTSIDE, SPLIT_NAMES, SPLIT_OF_NAME, split_of
from .request import Opened, Request

logger = logging.getLogger(__name__)

MOST_SHARDS = 64
# Columns that say the split of each row; `is_valid` is fastai's.
SPLIT_COLUMNS = ("split", "subset", "set", "partition", "is_valid", "is_test", "is_train")
# For a column of truth values, the splits of true and false.
SPLITS_OF_TRUTH = {"is_valid": ("validation", "train"), "is_test": ("test", "train"), "is_train": ("train", "test")}
TRUTH = {"true": 0, "1": 0, "1.0": 0, "false": 1, "0": 1, "0.0": 1}


def from_columns(
    loaded: Mapping[str, Dataset | IterableDataset],
    request: Request,
    layout: str,
    folders: Mapping[str, Sequence[str]] | None = None,
) -> Opened:
    """Takes images and values from the columns of data sets.

    Args:
        loaded: Splits by the source's names.
        request: What is wanted.
        layout: How the source was understood, in words.
        folders: For each split, where files with relative names are looked for.

    Raises:
        ValueError: If a column can't be found, or a split lacks it.
    """
    splits = standard_splits(loaded, request)
    train = splits["train"]
    wanted = {"image": find_column(train, request.image_column, "image", request.source)}
    several = None
    if request.needs is not None:
        several = several_columns(column_names(train), request.value_column)
    if request.needs is not None and several is None:
        wanted[request.kind] = find_column(train, request.value_column, request.kind, request.source)
    used = [*wanted.values(), *(several or [])]
    refuse_other_classes({split: data.features or {} for split, data in splits.items()}, request.source, used)
    opened = {}
    for split, data in splits.items():
        if missing := sorted(set(used) - set(column_names(data))):
            raise ValueError(
                f"--dataset {request.source}: the {split} split has no column {missing[0]}: leave the split out by "
                f"--split_names, or name the columns that all splits have"
            )
        data = data.select_columns(used)
        if several:
            data = data.map(lambda *values: {"label": list(values)}, input_columns=several, remove_columns=several)
        renames = {old: new for new, old in wanted.items() if old != new}
        data = data.rename_columns(renames) if renames else data
        opened[split] = encoded_images(data, (folders or {}).get(split, ()))
    return Opened(opened, layout, columns=several)


def in_memory(splits: Mapping[str, Dataset], streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """Returns open splits, with `streaming` as streams of several shards, so that each worker gets some.

    Raises:
        ValueError: If a split is a stream and `streaming` is False.
    """
    streamed = [split for split, data in splits.items() if isinstance(data, IterableDataset)]
    if streamed and not streaming:
        raise ValueError(
            f"the {streamed[0]} split is an IterableDataset: give streaming=True, or a Dataset where that is no option"
        )
    if not streaming:
        return dict(splits)
    return {
        split: data if split in streamed else data.to_iterable_dataset(max(1, min(len(data), MOST_SHARDS)))
        for split, data in splits.items()
    }


def standard_splits(
    loaded: Mapping[str, Dataset | IterableDataset], request: Request
) -> dict[str, Dataset | IterableDataset]:
    """Renames splits to train, validation and test, and flattens nested columns.

    Raises:
        ValueError: If there is no train split, or none of a name that the user gave.
    """
    if request.split_names:
        if missing := [name for name in request.split_names.values() if name not in loaded]:
            raise ValueError(f"--dataset {request.source} has no split {missing[0]}, it has {', '.join(loaded)}")
        found = dict(request.split_names)
    else:
        by_name = {name.lower(): name for name in loaded}
        found = {}
        for name, split in SPLIT_OF_NAME.items():
            if name in by_name:
                found.setdefault(split, by_name[name])
    if "train" not in found:
        raise ValueError(
            f"--dataset {request.source} has no split named train, it has {', '.join(loaded)}: name it by "
            f"--split_names train={next(iter(loaded))}"
        )
    if unread := [name for name in loaded if name not in found.values()]:
        logger.warning("--dataset %s: splits that are not read: %s", request.source, ", ".join(unread))
    splits = {split: flat(loaded[found[split]]) for split in SPLIT_NAMES if split in found}
    return splits if len(loaded) > 1 else by_column(splits["train"], request)


def by_column(data: Dataset | IterableDataset, request: Request) -> dict[str, Dataset | IterableDataset]:
    """Parts the rows of the only split by a column that says the split of each.

    Raises:
        ValueError: If the rows are a stream, or some values name no split.
    """
    if (column := split_column(column_names(data))) is None:
        return {"train": data}
    if isinstance(data, IterableDataset):
        first = next((row[column] for row in data.take(1)), None)
        if split_of_value(column, first, {}) is None:
            return {"train": data}
        raise ValueError(
            f"--dataset {request.source}: the column {column} parts the rows in splits, which --streaming can't read: "
            "leave it out, or write a file for each split"
        )
    names, values = class_names(data.features[column]), data[column][:]
    values = [names[value] if value is not None else None for value in values] if names else values
    found = splits_of_values(column, values, replace(request, split_names={}), request.source)
    rows = {split: [row for row, name in enumerate(found) if name == split] for split in SPLIT_NAMES}
    return {split: data.select(numbers) for split, numbers in rows.items() if numbers} or {"train": data}


def split_column(names: Sequence[str]) -> str | None:
    """The column that says the split of each row; None if there is none."""
    return next((name for wanted in SPLIT_COLUMNS for name in names if name.lower() == wanted), None)


def splits_of_values(column: str, values: Sequence[Any], request: Request, where: str) -> list[str]:
    """The split that each value of a split column says; `OUTSIDE` for other names than the user's.

    Empty if the column names no or one split, as the set of a toy or the origin of a file would.

    Raises:
        ValueError: If some values name splits and others do not, or none is for training.
    """
    if any(isinstance(value, list | dict) for value in values):
        return []
    split_by_value = {value: split_of_value(column, value, request.split_names) for value in set(values)}
    named = set(split_by_value.values()) - {None}
    if len(named) < 2:
        return []
    unnamed = [value for value, split in split_by_value.items() if split is None]
    if unnamed and not request.split_names:
        raise ValueError(
            f"{where}: the column {column} has the splits {', '.join(sorted(named))} and also {unnamed[0]!r}: correct "
            "it, or name the splits by --split_names"
        )
    if "train" not in named:
        raise ValueError(f"{where}: the column {column} names no training rows")
    return [split_by_value[value] or OUTSIDE for value in values]


def split_of_value(column: str, value: Any, split_names: Mapping[str, str]) -> str | None:
    """The split that a value of a split column says; None if it says none."""
    written, splits = str(value).strip(), SPLITS_OF_TRUTH.get(column.lower())
    if split_names:
        return next((split for split, name in split_names.items() if name == written), None)
    if splits is not None:
        return splits[TRUTH[written.lower()]] if written.lower() in TRUTH else None
    return split_of(written)
