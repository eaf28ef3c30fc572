"""Opening any source of images as `datasets` splits."""

import glob
import os
import re
from pathlib import Path
from typing import Literal

import datasets
from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .arrays import idx_splits, load_digits

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A split's name as a word of its own: `imagenet-val-0001.tar` is validation, `valuable.parquet` is not.
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF_NAME)})(?![a-z])")


# Files of a folder of images that tell more about them, as `datasets` names them.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def open_source(
    source: str, streaming: bool = False, needs: Literal["labels", "captions"] | None = "labels"
) -> dict[str, Dataset | IterableDataset]:
    """The source's own splits, as `datasets` opens them.

    Args:
        source: As in `load_image_dataset`.
        streaming: Whether rows are read only when they are asked for.
        needs: What a folder must have beside images: class folders for labels, metadata files for captions.
    """
    if source == "digits":
        return in_memory({"train": load_digits()}, streaming)
    path = Path(source).expanduser()
    if path.is_dir() and (splits := idx_splits(path)):
        return in_memory(splits, streaming)
    if path.is_dir():
        builder, files = folder_files(path, needs)
    elif path.is_file() or glob.has_magic(source):
        names = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))
        builder = builder_of(names, source)
        files = by_split_name(Path(os.path.commonpath([os.path.dirname(name) for name in names])), names)
    # The dot of a version is none of a file's suffix: `owner/data-v1.0` is a Hub name.
    elif path.is_absolute() or source[0] in ".~" or path.suffix[1:].isalpha() or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    else:
        return open_hub(source, streaming)
    options = {"drop_labels": needs != "labels"} if builder == "imagefolder" else {}
    # datasets takes names for patterns: unescaped, `photo[1].png` would be left out.
    data_files = {split: [glob.escape(name) for name in names] for split, names in files.items()}
    return load(builder, f"--dataset {source}", data_files=data_files, streaming=streaming, **options)


def in_memory(splits: dict[str, Dataset], streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """Splits that are in memory already."""
    return {split: data.to_iterable_dataset() if streaming else data for split, data in splits.items()}


def load(builder: str, named: str, **options) -> DatasetDict | IterableDatasetDict:
    """`datasets.load_dataset` whose failures are one line."""
    try:
        return datasets.load_dataset(builder, **options)
    except Exception as error:  # datasets raises many kinds, from its own to pyarrow's and tarfile's
        cause = error.__cause__ or error
        raise ValueError(f"{named} can't be read: {' '.join(str(cause).split())}") from error


def open_hub(source: str, streaming: bool) -> DatasetDict | IterableDatasetDict:
    """A data set of the Hub."""
    named = f"--dataset {source} is neither digits nor a file or folder here, and as a Hub data set it"
    return load(source, named, streaming=streaming)


def builder_of(files: list[str], source: str) -> str:
    """The builder of parquet or webdataset files."""
    for builder, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        if files and all(name.endswith(suffix) for name in files):
            return builder
    raise ValueError(
        f"--dataset {source}: expected parquet or .tar files, or a folder of images, got {len(files)} others"
    )


def folder_files(folder: Path, needs: str | None) -> tuple[str, dict[str, list[str]]]:
    """Builder and files by split of a folder; only folders' names make splits, never file names."""
    for builder, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        if names := sorted(str(path) for path in folder.rglob(f"*{suffix}") if path.name not in METADATA):
            return builder, by_split_name(folder, names)
    parts = {
        split: next((folder / name for name in names if (folder / name).is_dir()), None)
        for split, names in SPLIT_NAMES.items()
    }
    if parts["train"] is None:
        parts = {"train": folder}
    if needs == "captions":
        return "imagefolder", {split: described_images(part) for split, part in parts.items() if part}
    if needs is None:
        images = [str(file) for file in visible_images(parts["train"])]
        if not images:
            raise ValueError(f"--dataset {parts['train']}: there is no image in this folder or below")
        return "imagefolder", {"train": images}
    files = {split: image_files(part, split == "train") for split, part in parts.items() if part is not None}
    return "imagefolder", files


def described_images(part: Path) -> list[str]:
    """The image files of a split and the metadata files that describe them."""
    metadata = sorted(str(path) for path in part.rglob("*") if path.name in METADATA)
    images = [str(file) for file in visible_images(part)]
    if not images:
        raise ValueError(f"--dataset {part}: there is no image in this folder or below")
    if not metadata:
        raise ValueError(
            f"--dataset {part}: no captions, expected a file {part}/metadata.csv (or .jsonl, .parquet) with the "
            "columns file_name and text"
        )
    return images + metadata


def by_split_name(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """Parquet or tar files by the first split that the path within the folder names (`data/train-0001.tar`)."""
    splits: dict[str, list[str]] = {}
    for name in files:
        word = SPLIT_WORD.search(os.path.relpath(name, folder).lower())
        splits.setdefault(SPLIT_OF_NAME[word[1]] if word else "train", []).append(name)
    return splits if "train" in splits else {"train": files}


def image_files(folder: Path, needs_every_class: bool) -> list[str]:
    """The image files of class subfolders; hidden files and folders, such as `.ipynb_checkpoints`, are none."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path: visible_images(path) for path in classes}
    if not any(files.values()):
        raise ValueError(f"--dataset {folder}: no images in class subfolders, expected {folder}/CLASS/IMAGE.png")
    if needs_every_class and (empty := [path for path in classes if not files[path]]):
        raise ValueError(f"--dataset {folder}: class folder {empty[0]} has no image: remove it or add images")
    # datasets names the class after the folder right above an image, whatever lies above that.
    if deeper := [file.parent for path, images in files.items() for file in images if file.parent != path]:
        raise ValueError(
            f"--dataset {folder}: {deeper[0]} lies deeper than a class folder, expected {folder}/CLASS/IMAGE.png: "
            "move it up, or name the folder that holds the class folders"
        )
    return [str(file) for images in files.values() for file in images]


def visible_images(folder: Path) -> list[Path]:
    """The image files under a folder of which no part is hidden."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in ImageFolder.EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def standard_splits(loaded: dict[str, Dataset | IterableDataset], source: str) -> dict[str, Dataset | IterableDataset]:
    """The splits under the names train, validation and test; nested columns are flattened."""
    splits = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            if name in loaded and split not in splits:
                splits[split] = loaded[name] if isinstance(loaded[name], IterableDataset) else flat(loaded[name])
    if "train" not in splits:
        raise ValueError(f"--dataset {source} has no split named train, it has {', '.join(loaded)}")
    return splits


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
