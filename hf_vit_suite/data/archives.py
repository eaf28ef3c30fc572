"""Opens files that hold many images: parquet, webdataset shards and MNIST's IDX files."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import datasets
from datasets import Dataset, DownloadManager, Features, IterableDataset, List, Value
from datasets.data_files import DataFilesList

from .arrays import idx_splits
from .columns import UNDECODED
from .layout import SPLIT_OF_NAME, SPLIT_WORD, ignore_unread
from .listing import Listing
from .metadata import metadata_files
from .parquet import common_features, holds_images
from .request import Opened, Request, cause_of
from .shards import shard_rows, value_column
from .splits import from_columns, in_memory

# Raise it when `shard_rows` yields other rows of the same shards: `datasets` keeps its copy between versions.
ROWS_VERSION = "1"


def open_idx(listing: Listing, request: Request) -> Opened:
    """Opens a folder of MNIST's IDX files."""
    found = idx_splits(listing.folder)
    if not found:
        raise ValueError(f"--dataset {request.source}: there is no IDX file such as train-images-idx3-ubyte")
    splits = in_memory(found, request.streaming)
    read = {path.name for path in listing.folder.iterdir() if "-ubyte" in path.name}
    for names in listing.ignored.values():
        names[:] = [name for name in names if name not in read]
    ignore_unread(listing)
    listing.ignore("images beside IDX files", listing.images)
    return from_columns(splits, request, "IDX files")


def by_split_name(names: Sequence[str], request: Request) -> dict[str, list[str]]:
    """Groups parquet or tar files by the first split name in their relative path (`data/train-0001.tar`).

    Raises:
        ValueError: If a name that the user gave for a split is in no path.
    """
    if request.split_names:
        word_in = {
            split: re.compile(rf"(?<!\w){re.escape(word)}(?!\w)") for split, word in request.split_names.items()
        }
        chosen = {split: [name for name in names if word.search(name)] for split, word in word_in.items()}
        if empty := [split for split, found in chosen.items() if not found]:
            raise ValueError(
                f"--dataset {request.source}: no file for --split_names {empty[0]}={request.split_names[empty[0]]}"
            )
        return chosen
    splits: dict[str, list[str]] = {}
    for name in names:
        word = SPLIT_WORD.search(name.lower())
        splits.setdefault(SPLIT_OF_NAME[word[1]] if word else "train", []).append(name)
    return splits if "train" in splits else {"train": list(names)}


def open_parquet(listing: Listing, request: Request) -> Opened:
    """Opens parquet files."""
    metadata = metadata_files(listing)
    names = [
        name
        for name in listing.parquet
        if name not in metadata and holds_images(listing.path(name), request.image_column)
    ] or listing.parquet
    if not names:
        raise ValueError(f"--dataset {request.source}: there is no parquet file")
    splits = {split: [listing.path(name) for name in found] for split, found in by_split_name(names, request).items()}
    features = common_features(splits, request.source)
    loaded = open_with_builder("parquet", request, splits, features=features)
    ignore_unread(listing, read=names)
    listing.ignore("images beside parquet files", listing.images)
    folders = tuple(dict.fromkeys([str(listing.folder), *(os.path.dirname(listing.path(name)) for name in names)]))
    opened = from_columns(loaded, replace(request, split_names={}), "parquet files", folders)
    opened.ignored = listing.ignored
    return opened


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
    ignore_unread(listing, read=listing.shards)
    listing.ignore("images beside .tar files", listing.images)
    return Opened(opened, "webdataset shards", listing.ignored)
