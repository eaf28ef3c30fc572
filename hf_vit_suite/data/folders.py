"""Finds the images, archives, split folders and class folders of a folder. No image is omitted silently."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A split's name as a whole word: `imagenet-val-0001.tar` is validation, `valuable.parquet` is not.
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF_NAME)})(?![a-z])")

# Metadata files of an image folder, by `datasets`' names.
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
ARCHIVE_BUILDERS = {".parquet": "parquet", ".tar": "webdataset"}
# Suffixes of files that may contain images but are not read.
UNREAD = {".zip", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".avif", ".heic", ".heif", ".jxl"}
MOST_NAMED = 5


def folder_files(folder: Path, needs: Literal["labels", "captions"] | None) -> tuple[str, dict[str, list[str]]]:
    """Returns a folder's `datasets` builder and its files by split; image splits are defined by folder names only.

    Args:
        folder: Absolute path.
        needs: As in `open_source`.

    Raises:
        ValueError: If there is no image, or some images would be omitted.
    """
    files = list(visible_files(folder))
    builder = only_builder(folder, files)
    if builder != "imagefolder":
        return builder, by_split_name(folder, [str(file) for file in files if builder_of_file(file) == builder])
    parts = split_folders(folder) or {"train": folder}
    if needs is None:
        refuse_nested_splits(parts["train"])
        return builder, {"train": [str(file) for file in images_below(parts["train"])]}
    if needs == "captions":
        return builder, {split: described_images(part) for split, part in parts.items()}
    return builder, {split: class_images(part, split == "train") for split, part in parts.items()}


def visible_files(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Yields the files of a folder recursively, sorted by name, without hidden files and folders.

    Links are followed, except links to a folder in `above`, whose files are already listed.
    """
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in visible:
        if entry.is_dir():
            yield from visible_files(folder / entry.name, above | {here})
        else:
            yield folder / entry.name


def is_image(file: Path) -> bool:
    """Whether a file has an image suffix."""
    return file.suffix.lower() in ImageFolder.EXTENSIONS


def builder_of_file(file: Path) -> str | None:
    """Returns the `datasets` builder for a file, by its name; None if there is none."""
    if file.name in METADATA:
        return None
    return "imagefolder" if is_image(file) else ARCHIVE_BUILDERS.get(file.suffix)


def only_builder(folder: Path, files: list[Path]) -> str:
    """Returns the single builder that reads all images of a folder.

    Raises:
        ValueError: If a folder mixes images, parquet and `.tar` files: only one kind can be read.
    """
    first_of: dict[str, Path] = {}
    for file in files:
        if builder := builder_of_file(file):
            first_of.setdefault(builder, file)
    if len(first_of) > 1:
        named = " and ".join(str(file.relative_to(folder)) for file in first_of.values())
        raise ValueError(
            f"--dataset {folder} mixes {named}: only images, only parquet files or only .tar files can be read "
            "together: move the others away, or name those to read by a pattern such as 'FOLDER/*.parquet'"
        )
    if unread := [str(file.relative_to(folder)) for file in files if file.suffix.lower() in UNREAD]:
        named = ", ".join(unread[:MOST_NAMED]) + (", ..." if len(unread) > MOST_NAMED else "")
        logger.warning("--dataset %s: %d files are not read: %s", folder, len(unread), named)
    return next(iter(first_of), "imagefolder")


def by_split_name(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """Groups parquet or tar files by the first split name in their relative path (`data/train-0001.tar`)."""
    splits: dict[str, list[str]] = {}
    for name in files:
        word = SPLIT_WORD.search(os.path.relpath(name, folder).lower())
        splits.setdefault(SPLIT_OF_NAME[word[1]] if word else "train", []).append(name)
    return splits if "train" in splits else {"train": files}


def split_folders(folder: Path) -> dict[str, Path]:
    """Returns a folder's direct split folders, such as `Training` and `test`; none if they are classes.

    A single folder with a split's name beside other image folders is a class, such as `train` beside `bus` and `car`.

    Raises:
        ValueError: If the layout is ambiguous, or images outside the split folders would be omitted.
    """
    below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = [path for path in below if path.name.lower() in SPLIT_OF_NAME]
    others = [path for path in below if path not in named and has_image(path)]
    if not named or (others and len(named) == 1):
        return {}
    names = ", ".join(path.name for path in named)
    folder_of = {SPLIT_OF_NAME[path.name.lower()]: path for path in named}
    parts = {split: folder_of[split] for split in SPLIT_NAMES if split in folder_of}
    if others or len(parts) < len(named) or "train" not in parts:
        beside = f" beside {others[0].name}" if others else ""
        raise ValueError(
            f"--dataset {folder} holds the folders {names}{beside}: expected one folder each for train and, if "
            "there are any, validation and test images, and none else: move or rename folders, or name one to read"
        )
    if loose := [path for path in sorted(folder.iterdir()) if path.is_file() and is_image(path)]:
        raise ValueError(
            f"--dataset {folder}: {loose[0].name} lies outside the split folders {names}: move it into one"
        )
    return parts


def has_image(folder: Path) -> bool:
    """Whether a folder contains an image at any depth."""
    return any(is_image(file) for file in visible_files(folder))


def refuse_nested_splits(folder: Path) -> None:
    """Checks that no subfolder contains several split folders.

    Raises:
        ValueError: If one does: without labels all images are read, including test images.
    """
    parents = {file.parent for file in visible_files(folder) if is_image(file)}
    inside = {path for parent in parents for path in (parent, *parent.parents) if folder in path.parents}
    splits: dict[Path, set[str]] = {}
    for path in sorted(inside):
        if path.parent != folder and (split := SPLIT_OF_NAME.get(path.name.lower())):
            splits.setdefault(path.parent, set()).add(split)
    if mixed := [path for path, names in splits.items() if len(names) > 1]:
        raise ValueError(
            f"--dataset {folder}: {mixed[0]} holds split folders, and all images below would be read: name the "
            "folder of the training images"
        )


def images_below(folder: Path) -> list[Path]:
    """Returns the images of a folder, at any depth.

    Raises:
        ValueError: If there is none.
    """
    images = [file for file in visible_files(folder) if is_image(file)]
    if not images:
        raise ValueError(f"--dataset {folder}: there is no image in this folder or below")
    return images


def described_images(part: Path) -> list[str]:
    """Returns the image files of a split and their metadata files."""
    images = [str(file) for file in images_below(part)]
    metadata = [str(file) for file in visible_files(part) if file.name in METADATA]
    if not metadata:
        raise ValueError(
            f"--dataset {part}: no captions, expected a file {part}/metadata.csv (or .jsonl, .parquet) with the "
            "columns file_name and text"
        )
    return images + metadata


def class_images(folder: Path, needs_every_class: bool) -> list[str]:
    """Returns the image files of class subfolders.

    Raises:
        ValueError: If there is no image, a class folder is empty (with `needs_every_class`), or an image lies outside
            the class folders.
    """
    files: dict[Path, list[Path]] = {
        path: [] for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")
    }
    loose = []
    for file in filter(is_image, visible_files(folder)):
        files.get(folder / file.relative_to(folder).parts[0], loose).append(file)
    if not any(files.values()):
        raise ValueError(f"--dataset {folder}: no images in class subfolders, expected {folder}/CLASS/IMAGE.png")
    if needs_every_class and (empty := [path for path, images in files.items() if not images]):
        raise ValueError(f"--dataset {folder}: class folder {empty[0]} has no image: remove it or add images")
    if loose:
        raise ValueError(f"--dataset {folder}: {loose[0]} lies in no class folder: move it into one, or away")
    # datasets takes an image's direct parent folder as its class.
    if deeper := [file.parent for path, images in files.items() for file in images if file.parent != path]:
        raise ValueError(
            f"--dataset {folder}: {deeper[0]} lies deeper than a class folder, expected {folder}/CLASS/IMAGE.png: "
            "move it up, or name the folder that holds the class folders"
        )
    return [str(file) for images in files.values() for file in images]
