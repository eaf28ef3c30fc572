"""Opening any source of images as `datasets` splits."""

import glob
import logging
import os
from pathlib import Path
from typing import Literal

import datasets
from datasets import Dataset, DatasetDict, DownloadManager, IterableDataset, IterableDatasetDict
from datasets.data_files import DataFilesList

from .arrays import idx_splits, load_digits
from .folders import ARCHIVE_BUILDERS, SPLIT_OF_NAME, builder_of_file, by_split_name, folder_files, visible_files
from .objects import Source, object_splits

logger = logging.getLogger(__name__)

MOST_SHARDS = 64


def open_source(
    source: Source, streaming: bool = False, needs: Literal["labels", "captions"] | None = "labels"
) -> dict[str, Dataset | IterableDataset]:
    """The source's own splits, as `datasets` opens them.

    Args:
        source: As in `load_image_dataset`.
        streaming: Whether rows are read only when they are used.
        needs: What a folder must have beside images: class folders for labels, metadata files for captions.
    """
    if not isinstance(source, str | os.PathLike):
        return in_memory(object_splits(source), streaming)
    source = os.fspath(source)
    if source == "digits":
        return in_memory({"train": load_digits()}, streaming)
    path = local_path(source)
    if path.is_dir() and (splits := idx_splits(path)):
        refuse_beside_idx(path)
        return in_memory(splits, streaming)
    if path.is_dir():
        builder, files = folder_files(path, needs)
    elif path.is_file() or glob.has_magic(source):
        names = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))
        builder = builder_of(names, source)
        files = by_split_name(Path(os.path.commonpath([os.path.dirname(name) for name in names])), names)
    # The dot of a version is none of a file's suffix: `owner/data-v1.0` is a Hub name.
    elif os.path.isabs(source) or source[0] in ".~" or path.suffix[1:].isalpha() or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    else:
        return open_hub(source, streaming)
    options = {"drop_labels": needs != "labels"} if builder == "imagefolder" else {}
    return open_files(builder, f"--dataset {source}", files, streaming, **options)


def local_path(source: str) -> Path:
    """The absolute path that a source names; only a leading `~` or `~user` is expanded, not that of `./~x`."""
    return Path(os.path.expanduser(source)).absolute()


def refuse_beside_idx(folder: Path) -> None:
    """Refuses images, parquet and `.tar` files beside MNIST's IDX files, which alone would be read."""
    if others := [file for file in visible_files(folder) if builder_of_file(file)]:
        raise ValueError(
            f"--dataset {folder} mixes IDX files and {others[0].relative_to(folder)}: only one kind can be read "
            "together: move the others away"
        )


def in_memory(splits: dict[str, Dataset], streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """Splits that are open already; as streams of several shards, so that each worker reads some of them.

    Raises:
        ValueError: If a split is a stream and `streaming` is not asked for.
    """
    streamed = [split for split, data in splits.items() if isinstance(data, IterableDataset)]
    if streamed and not streaming:
        raise ValueError(f"the {streamed[0]} split is an IterableDataset: give streaming=True")
    if not streaming:
        return splits
    return {
        split: data if split in streamed else data.to_iterable_dataset(min(len(data), MOST_SHARDS))
        for split, data in splits.items()
    }


class LocalFiles(DownloadManager):
    """Gives `datasets` local files as they are named; its own manager takes `$NAME` in a path for a variable."""

    def download(self, url_or_urls: dict[str, list[str]] | list[str]) -> dict[str, list[str]] | list[str]:
        return url_or_urls


def open_files(
    builder: str, named: str, files: dict[str, list[str]], streaming: bool, **options
) -> DatasetDict | IterableDatasetDict:
    """Local files by split as `datasets` opens them, their names taken literally; failures are one line."""
    if chained := [name for names in files.values() for name in names if "::" in name]:
        raise ValueError(f"{named}: datasets takes the :: in {chained[0]} for a path into an archive: rename it")
    # Names in a DataFilesList are no patterns; by the times datasets sees whether what it cached has changed.
    data_files = {
        split: DataFilesList(names, [(str(os.stat(name).st_mtime),) for name in names])
        for split, names in files.items()
    }
    try:
        opened = datasets.load_dataset_builder(builder, data_files=data_files, **options)
        if streaming:
            return opened.as_streaming_dataset()
        opened.download_and_prepare(dl_manager=LocalFiles(record_checksums=False))
        return opened.as_dataset()
    except Exception as error:  # datasets raises many kinds, from its own to pyarrow's and tarfile's
        raise ValueError(f"{named} can't be read: {cause_of(error)}") from error


def open_hub(source: str, streaming: bool) -> DatasetDict | IterableDatasetDict:
    """A data set of the Hub."""
    try:
        return datasets.load_dataset(source, streaming=streaming)
    except Exception as error:  # as above
        named = f"--dataset {source} is neither digits nor a file or folder here, and as a Hub data set it"
        raise ValueError(f"{named} can't be read: {cause_of(error)}") from error


def cause_of(error: Exception) -> str:
    """What datasets failed at, in one line."""
    return " ".join(str(error.__cause__ or error).split())


def builder_of(files: list[str], source: str) -> str:
    """The builder of parquet or webdataset files."""
    for suffix, builder in ARCHIVE_BUILDERS.items():
        if files and all(name.endswith(suffix) for name in files):
            return builder
    raise ValueError(
        f"--dataset {source}: expected parquet or .tar files, or a folder of images, got {len(files)} others"
    )


def standard_splits(loaded: dict[str, Dataset | IterableDataset], source: str) -> dict[str, Dataset | IterableDataset]:
    """The splits under the names train, validation and test; nested columns are flattened."""
    by_name = {name.lower(): data for name, data in loaded.items()}
    found: dict[str, str] = {}
    for name, split in SPLIT_OF_NAME.items():
        if name in by_name:
            found.setdefault(split, name)
    if "train" not in found:
        raise ValueError(f"--dataset {source} has no split named train, it has {', '.join(loaded)}")
    if unread := [name for name in loaded if name.lower() not in found.values()]:
        logger.warning("--dataset %s: splits that are not read: %s", source, ", ".join(unread))
    data_of = {split: by_name[name] for split, name in found.items()}
    return {split: data if isinstance(data, IterableDataset) else flat(data) for split, data in data_of.items()}


def flat(data: Dataset) -> Dataset:
    """Nested columns as columns of their own (webdataset's json); images stay whole."""
    has_nested = any(isinstance(feature, dict) for feature in data.features.values())
    return data.flatten() if has_nested else data


def find_column(
    data: Dataset | IterableDataset,
    name: str | None,
    kind: str,
    feature_type: type | None,
    usual: tuple[str, ...],
    source: str,
) -> str:
    """A column by the name given, by its type, or by a usual name."""
    existing = data.column_names or list(next(iter(data.take(1)), {}))
    if name is not None and name in existing:
        return name
    features = data.features or {}
    found = [column for column in existing if feature_type and isinstance(features.get(column), feature_type)]
    found += [column for column in usual if column in existing]
    if name is not None or not found:
        missing = f"no column {name!r}" if name is not None else f"no column that looks like the {kind}"
        raise ValueError(f"--dataset {source} has {missing}: name one of {', '.join(existing)} by --{kind}_column")
    return found[0]
