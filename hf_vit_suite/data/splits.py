"""Makes splits with the columns `image` and `label` or `text` of data sets with any columns and split names."""

import logging
from collections.abc import Mapping, Sequence

from datasets import Dataset, IterableDataset

from .columns import find_column, flat
from .image_values import encoded_images
from .layout import SPLIT_NAMES, SPLIT_OF_NAME
from .request import Opened, Request

logger = logging.getLogger(__name__)

MOST_SHARDS = 64


def from_columns(
    loaded: Mapping[str, Dataset | IterableDataset], request: Request, layout: str, folders: Sequence[str] = ()
) -> Opened:
    """Takes images and values from the columns of data sets."""
    splits = standard_splits(loaded, request)
    any_split = next(iter(splits.values()))
    wanted = {"image": find_column(any_split, request.image_column, "image", request.source)}
    several = None
    if request.needs is not None:
        existing = any_split.column_names or list(next(iter(any_split.take(1)), {}))
        names = (request.value_column or "").split(",")
        if request.value_column not in existing and len(names) > 1 and all(name in existing for name in names):
            several = names
        else:
            wanted[request.kind] = find_column(any_split, request.value_column, request.kind, request.source)
    opened = {}
    for split, data in splits.items():
        data = data.select_columns([*wanted.values(), *(several or [])])
        if several:
            data = data.map(lambda *values: {"label": list(values)}, input_columns=several, remove_columns=several)
        renames = {old: new for new, old in wanted.items() if old != new}
        data = data.rename_columns(renames) if renames else data
        opened[split] = encoded_images(data, folders)
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
    return {split: flat(loaded[found[split]]) for split in SPLIT_NAMES if split in found}
