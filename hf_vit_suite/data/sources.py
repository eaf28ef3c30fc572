"""Opens any source of images as `datasets` splits."""

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
    """Opens the splits that the source itself defines.

    Args:
        source: As in `load_image_dataset`.
        streaming: Read rows on demand.
        needs: Required annotation of a folder: class folders for labels, metadata files for captions, None for none.
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
    # A version's dot starts no file suffix: `owner/data-v1.0` is a Hub name.
    elif os.path.isabs(source) or source[0] in ".~" or path.suffix[1:].isalpha() or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    else:
        return open_hub(source, streaming)
    options = {"drop_labels": needs != "labels"} if builder == "imagefolder" else {}
    return open_files(builder, f"--dataset {source}", files, streaming, **options)


def local_path(source: str) -> Path:
    """Returns a source's absolute path; expands a leading `~` or `~user`, but not `./~x`."""
    return Path(os.path.expanduser(source)).absolute()


def refuse_beside_idx(folder: Path) -> None:
    """Raises an error if a folder of IDX files also holds images, parquet or `.tar` files: these would be ignored."""
    if others := [file for file in visible_files(folder) if builder_of_file(file)]:
        raise ValueError(
            f"--dataset {folder} mixes IDX files and {others[0].relative_to(folder)}: only one kind can be read "
            "together: move the others away"
        )


def in_memory(splits: dict[str, Dataset], streaming: bool) -> dict[str, Dataset | IterableDataset]:
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
        return splits
    return {
        split: data if split in streamed else data.to_iterable_dataset(min(len(data), MOST_SHARDS))
        for split, data in splits.items()
    }


class LocalFiles(DownloadManager):
    """Passes local paths to `datasets` literally; the default manager expands `$NAME` in a path as a variable."""

    def download(self, url_or_urls: dict[str, list[str]] | list[str]) -> dict[str, list[str]] | list[str]:
        return url_or_urls


def open_files(
    builder: str, named: str, files: dict[str, list[str]], streaming: bool, **options
) -> DatasetDict | IterableDatasetDict:
    """Opens local files by split; takes file names literally and reports failures in one line."""
    if chained := [name for names in files.values() for name in names if "::" in name]:
        raise ValueError(f"{named}: datasets takes the :: in {chained[0]} for a path into an archive: rename it")
    # A DataFilesList takes names literally, not as patterns; datasets checks its cache by the modification times.
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
    except Exception as error:  # datasets raises many types: its own, pyarrow's, tarfile's
        raise ValueError(f"{named} can't be read: {cause_of(error)}") from error


def open_hub(source: str, streaming: bool) -> DatasetDict | IterableDatasetDict:
    try:
        return datasets.load_dataset(source, streaming=streaming)
    except Exception as error:  # as above
        named = f"--dataset {source} is neither digits nor a file or folder here, and as a Hub data set it"
        raise ValueError(f"{named} can't be read: {cause_of(error)}") from error


def cause_of(error: Exception) -> str:
    """Returns the cause of a `datasets` error in one line."""
    return " ".join(str(error.__cause__ or error).split())


def builder_of(files: list[str], source: str) -> str:
    """Returns the `datasets` builder for parquet or webdataset files, by their suffix."""
    for suffix, builder in ARCHIVE_BUILDERS.items():
        if files and all(name.endswith(suffix) for name in files):
            return builder
    raise ValueError(
        f"--dataset {source}: expected parquet or .tar files, or a folder of images, got {len(files)} others"
    )


def standard_splits(loaded: dict[str, Dataset | IterableDataset], source: str) -> dict[str, Dataset | IterableDataset]:
    """Renames splits to train, validation and test, and flattens nested columns."""
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
    """Flattens nested columns (webdataset's json), but not images."""
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
    """Finds a column by the given name, else by its type, else by a usual name."""
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
