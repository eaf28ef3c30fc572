"""Opens files that hold many images: parquet, webdataset shards and MNIST's IDX files."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
from datasets import Dataset, DownloadManager, Features, IterableDataset, List, Value
from datasets.data_files import DataFilesList

from .arrays import IDX_IMAGES, idx_splits, labels_of
from .columns import UNDECODED
from .image_values import named_files
from .layout import SPLIT_OF_NAME, SPLIT_WORD, ambiguous, ignore_unread
from .listing import Listing
from .metadata import metadata_files
from .parquet import common_features, holds_images, number_of_rows
from .reading import joined
from .request import Opened, Request, cause_of
from .shards import shard_rows, value_column
from .splits import from_columns, in_memory

# Raise it when `shard_rows` yields other rows of the same shards: `datasets` keeps its copy between versions.
ROWS_VERSION = "2"
# Words of files that may be no training images, though they name no split of ours.
HELD_OUT = re.compile(r"(?<![a-z])(holdout|heldout|eval|evaluation|query|gallery|unlabeled|unlabelled)(?![a-z])")


def open_idx(listing: Listing, request: Request) -> Opened:
    """Opens a folder of MNIST's IDX files."""
    found = idx_splits(listing.folder)
    if not found:
        raise ValueError(f"--dataset {request.source}: there is no IDX file such as train-images-idx3-ubyte")
    splits = in_memory(found, request.streaming)
    images = [path.name for path in listing.folder.iterdir() if IDX_IMAGES.fullmatch(path.name)]
    read = {*images, *map(labels_of, images)}
    for names in listing.ignored.values():
        names[:] = [name for name in names if name not in read]
    ignore_unread(listing)
    listing.ignore("images beside IDX files", listing.images)
    return from_columns(splits, request, "IDX files")


def by_split_name(names: Sequence[str], request: Request) -> dict[str, list[str]]:
    """Groups parquet or tar files by the first split name in their relative path (`data/train-0001.tar`).

    Raises:
        ValueError: If files without such a name lie beside training files, there are none for training, or as
            `by_chosen_name`.
    """
    if request.split_names:
        return by_chosen_name(names, request)
    splits: dict[str, list[str]] = {}
    bare: list[str] = []
    for name in names:
        word = SPLIT_WORD.search(name.lower())
        (splits.setdefault(SPLIT_OF_NAME[word[1]], []) if word else bare).append(name)
    if bare and "train" in splits and (len(splits) > 1 or any(HELD_OUT.search(name.lower()) for name in bare)):
        others = " ".join(f"{split}={split}" for split in splits if split != "train")
        raise ambiguous(
            request.source,
            f"{bare[0]} is left out (--split_names train=train{f' {others}' if others else ''})",
            "a split of its own or a part of one (--split_names names it)",
        )
    if bare:
        return splits | {"train": [*splits.get("train", []), *bare]}
    if len(splits) == 1:  # they are what the user named
        return {"train": list(names)}
    if "train" not in splits:
        raise ValueError(
            f"--dataset {request.source} holds the splits {joined(list(splits))} but no training images: choose by "
            f"--split_names, such as train={next(iter(splits))}"
        )
    return splits


def by_chosen_name(names: Sequence[str], request: Request) -> dict[str, list[str]]:
    """Groups files by the words that the user gave; files without one of them are in no group.

    Raises:
        ValueError: If a word is in no path, or a path has the words of two splits.
    """
    pattern = {split: whole_word(word) for split, word in request.split_names.items()}
    chosen = {split: [name for name in names if word.search(name)] for split, word in pattern.items()}
    split_by_name: dict[str, str] = {}
    for split, found in chosen.items():
        given = f"{split}={request.split_names[split]}"
        if not found:
            raise ValueError(f"--dataset {request.source}: no file for --split_names {given}")
        for name in found:
            other = split_by_name.setdefault(name, split)
            if other != split:
                raise ValueError(
                    f"--dataset {request.source}: {name} belongs to two of --split_names, "
                    f"{other}={request.split_names[other]} and {given}: give words that only one split's files have"
                )
    return chosen


def whole_word(word: str) -> re.Pattern[str]:
    """Finds a word that no further letter, or for a digit at its end no further digit, goes on with."""
    letter, digit = r"[^\W\d_]", r"\d"
    before, after = (digit if end.isdigit() else letter for end in (word[0], word[-1]))
    return re.compile(rf"(?<!{before}){re.escape(word)}(?!{after})")


def open_parquet(listing: Listing, request: Request) -> Opened:
    """Opens parquet files."""
    metadata = metadata_files(listing)
    names = [
        name
        for name in listing.parquet
        if name not in metadata and holds_images(listing.path(name), request.image_column)
    ] or [name for name in listing.parquet if name not in metadata]
    if not names:
        raise ValueError(f"--dataset {request.source}: there is no parquet file")
    empty = [name for name in names if not number_of_rows(listing.path(name))]  # Spark writes such parts
    groups = by_split_name([name for name in names if name not in empty] or names, request)
    splits = {split: [listing.path(name) for name in found] for split, found in groups.items()}
    features = common_features(splits, request.source)
    loaded = open_with_builder("parquet", request, splits, features=features)
    folders = {
        split: tuple(dict.fromkeys([*map(os.path.dirname, paths), str(listing.folder)]))
        for split, paths in splits.items()
    }
    opened = from_columns(loaded, replace(request, split_names={}), "parquet files", folders)
    opened.files = groups
    ignore_unread(listing, read=files_of(groups).union(empty))
    listing.ignore("without rows", empty)
    ignore_other_images(listing, opened)
    return opened


def files_of(groups: Mapping[str, Sequence[str]]) -> set[str]:
    """The files of all splits."""
    return {name for names in groups.values() for name in names}


def ignore_other_images(listing: Listing, opened: Opened) -> None:
    """Notes images that no row of a parquet file names; which a stream names is not known before it ends."""
    read: set[str] = set()
    for data in opened.splits.values():
        if not isinstance(data, Dataset):
            listing.ignore("images beside parquet files, read if a row names them", listing.images)
            return
        read.update(path for path in named_files(data) if path is not None)
    others = (name for name in listing.images if listing.path(name) not in read)
    listing.ignore("images beside parquet files", others)


class LocalFiles(DownloadManager):
    """Passes local paths to `datasets` literally; the default manager expands `$NAME` in a path as a variable."""

    def download(self, url_or_urls: dict[str, list[str]] | list[str]) -> dict[str, list[str]] | list[str]:
        return url_or_urls


def open_with_builder(
    builder: str, request: Request, files: Mapping[str, list[str]], **options
) -> dict[str, Dataset | IterableDataset]:
    """Opens local files by split with a builder of `datasets`; takes file names literally.

    Raises:
        ValueError: With the cause in one line.
    """
    if chained := [name for names in files.values() for name in names if "::" in name]:
        raise ValueError(
            f"--dataset {request.source}: datasets takes the :: in {chained[0]} for a path into an archive: rename it"
        )
    # A DataFilesList takes names literally, not as patterns; datasets checks its cache by the modification times.
    data_files = {
        split: DataFilesList(names, [(str(os.stat(name).st_mtime),) for name in names])
        for split, names in files.items()
    }
    try:
        opened = datasets.load_dataset_builder(builder, data_files=data_files, **options)
        if request.streaming:
            return opened.as_streaming_dataset()
        opened.download_and_prepare(dl_manager=LocalFiles(record_checksums=False))
        return opened.as_dataset()
    except Exception as error:  # datasets raises many types: its own, pyarrow's
        raise ValueError(f"--dataset {request.source} can't be read: {cause_of(error)}") from error


def open_shards(listing: Listing, request: Request) -> Opened:
    """Opens webdataset shards."""
    if not listing.shards:
        raise ValueError(f"--dataset {request.source}: there is no .tar file")
    groups = by_split_name(listing.shards, request)
    splits = {split: [listing.path(name) for name in found] for split, found in groups.items()}
    features: dict[str, Any] = {"image": UNDECODED}
    column, is_list = None, False
    if request.needs is not None:
        column, is_list = value_column(splits["train"], request.value_column, request.kind, request.source)
        features["value"] = List(Value("string")) if is_list else Value("string")
    make = IterableDataset.from_generator if request.streaming else Dataset.from_generator
    opened = {}
    try:
        for split, shards in splits.items():
            stamp = " ".join(
                [ROWS_VERSION, *(f"{os.stat(name).st_size}.{os.stat(name).st_mtime_ns}" for name in shards)]
            )
            arguments = {"image_column": request.image_column, "column": column, "is_list": is_list, "stamp": stamp}
            rows = make(shard_rows, features=Features(features), gen_kwargs={"shards": shards, **arguments})
            opened[split] = rows.rename_column("value", request.kind) if column is not None else rows
    except datasets.exceptions.DatasetGenerationError as error:
        raise ValueError(f"--dataset {request.source} can't be read: {cause_of(error)}") from error
    ignore_unread(listing, read=files_of(groups))
    listing.ignore("images beside .tar files", listing.images)
    return Opened(opened, "webdataset shards", files=groups)
