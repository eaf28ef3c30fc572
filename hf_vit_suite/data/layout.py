"""Decides what a folder's images are: which are of which split, and of which class. Doubts are errors of one line."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .listing import ARCHIVES, NEED_PLUGIN, TABLES, Listing

Needs = Literal["labels", "captions"] | None
Layout = Literal["class_folders", "leaf_folders", "images", "metadata", "parquet", "webdataset", "idx"]
LAYOUTS = get_args(Layout)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A split's name as a whole word: `imagenet-val-0001.tar` is validation, `valuable.parquet` is not.
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF_NAME)})(?![a-z])")
# A split's name alone or with one such ending: `train2017`, `test_set`, `val images`.
SPLIT_FOLDER = re.compile(
    rf"({'|'.join(SPLIT_OF_NAME)})([-_ ]?(\d{{1,4}}|set|split|data|dataset|images?|imgs?|photos|pictures))?"
)
# Folders of these names are parts of a data set, not classes.
PARTS = {
    *("image", "images", "img", "imgs", "jpegimages"),
    *("annotation", "annotations", "label", "labels", "gt", "mask", "masks"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject"),
    *("assets", "figures"),
}

OTHER_SPLIT = "of splits that are not read"
OUTSIDE = "outside the named splits"
NO_CLASSES = "of splits without class folders"
MOST_NAMED = 5


@dataclass
class ImageRows:
    """The images of a folder by split.

    Args:
        layout: How they were understood, in words.
        splits: For each split, rows of a relative or absolute file name and its value: class name, captions, or None.
        tables: Tables that were read.
    """

    layout: str
    splits: dict[str, list[tuple[str, Any]]]
    tables: list[str] = field(default_factory=list)


def split_of(folder: str) -> str | None:
    """The split that a folder's name says, in any case; None if it says none."""
    match = SPLIT_FOLDER.fullmatch(folder.lower())
    return SPLIT_OF_NAME[match[1]] if match else None


def splits_of(folders: Sequence[str]) -> dict[str, str]:
    """The split that each of some folders' names says.

    That is the name itself, or else its only part that differs: `cars_train` and `cars_test`.
    """
    found = {folder: split for folder in folders if (split := split_of(folder))}
    if found:
        return found
    words = {folder: word for folder in folders if (word := SPLIT_WORD.search(folder.lower()))}
    alike: dict[str, list[str]] = {}
    for folder, word in words.items():
        alike.setdefault(folder.lower()[: word.start()] + "*" + folder.lower()[word.end() :], []).append(folder)
    same = next((names for names in alike.values() if len(names) > 1), [])
    return {folder: SPLIT_OF_NAME[words[folder][1]] for folder in same}


def parts_of(name: str) -> list[str]:
    """The folders and the file of a relative name."""
    return name.split("/")


def named(names: Sequence[str]) -> str:
    """The first few names, for messages."""
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")


def counted(number: int, what: str) -> str:
    """A number with its noun: `1 class`, `2 classes`."""
    plural = what + ("es" if what.endswith("s") else "s")
    return f"{number:,} {what if number == 1 else plural}"


def ambiguous(source: str, *readings: str) -> ValueError:
    """The error of a source that can be read in several ways, each with the option that chooses it."""
    return ValueError(f"--dataset {source} can be read in more than one way: {', or '.join(readings)}")


class Folder:
    """Images by their first folder.

    Args:
        listing: What is there.
        names: The images.
        base: The folder that holds them, relative to the listing; "" is the listing itself.
        source: Name of the data set, for errors.
    """

    def __init__(self, listing: Listing, names: Sequence[str], base: str, source: str):
        self.listing = listing
        self.base = base
        self.source = source
        self.loose: list[str] = []
        self.tops: dict[str, list[str]] = {}
        for name in names:
            top, _, rest = inside(name, base).partition("/")
            (self.tops.setdefault(top, []) if rest else self.loose).append(name)

    def below(self, top: str) -> "Folder":
        """The folder one level down."""
        return Folder(self.listing, self.tops[top], f"{self.base}/{top}" if self.base else top, self.source)

    def is_nested(self, top: str) -> bool:
        """Whether a first-level folder holds its images in folders of its own, and none directly."""
        return bool((below := self.below(top)).tops) and not below.loose

    def splits(self) -> dict[str, str]:
        """The split of each first-level folder whose name says one."""
        return splits_of(list(self.tops))

    def empty_folders(self) -> list[str]:
        """First-level folders without any file that is read or known to be no image."""
        used = {parts_of(within)[0] for name in self.known_files() if (within := inside(name, self.base))}
        tops = (inside(name, self.base) for name in self.listing.folders)
        return [top for top in tops if top and "/" not in top and top not in used]

    def known_files(self) -> list[str]:
        """Images, tables, archives and files that are none of these, but not images that need a plugin."""
        listing = self.listing
        others = [name for reason, names in listing.ignored.items() if reason != NEED_PLUGIN for name in names]
        return listing.images + listing.tables + listing.parquet + listing.shards + others


def inside(name: str, base: str) -> str:
    """A name relative to a folder; empty if it lies elsewhere."""
    if not base:
        return name
    return name[len(base) + 1 :] if name.startswith(base + "/") else ""


def descend(folder: Folder, split_names: Mapping[str, str]) -> Folder:
    """Goes down through single folders, as archives unpack to, while they hold nothing but one folder of folders."""
    while not folder.loose and len(folder.tops) == 1:
        (top,) = folder.tops
        if split_of(top) is not None or top in split_names.values() or not folder.is_nested(top):
            break
        folder = folder.below(top)
    return folder


def split_folders(
    folder: Folder, needs: Needs, split_names: Mapping[str, str], layout: str | None = None
) -> dict[str, str]:
    """Finds the folders of the splits: split -> first-level folder; empty if there are none.

    Folders with the names of splits are splits only if they contain what a split would: class folders for labels. A
    class may be called `train`.

    Args:
        folder: The images.
        needs: What each image needs.
        split_names: Split -> folder, if the user named them.
        layout: If the user chose it: where folders could be splits or classes, they are then no splits.

    Raises:
        ValueError: If folders could be splits or classes, two are the same split, or none is `train`.
    """
    if split_names:
        return chosen_splits(folder, split_names)
    split_by_top = folder.splits()
    names = list(split_by_top)
    others = [top for top in folder.tops if top not in names]
    splits = [top for top in names if needs == "captions" or folder.is_nested(top)] if needs else names
    if needs == "labels" and not splits:
        if len(names) > 1 and not others and layout is None:
            raise ValueError(
                f"--dataset {folder.source}: the folders {named(names)} hold images but no class folders, expected "
                f"{names[0]}/CLASS/IMAGE.png; if these are the classes, give --layout class_folders"
                f"{table_hint(folder.listing)}"
            )
        return {}
    if not splits or (others and len(names) == 1 and not folder.is_nested(names[0])):
        return {}
    if others and layout is not None:
        return {}
    if others:
        choice = " ".join(f"{split_by_top[top]}={top}" for top in splits)
        all_read = {
            "labels": f"the classes {named(sorted(folder.tops))} (--layout class_folders)",
            "captions": "training images alone (--layout metadata)",
            None: "training images alone (--layout images)",
        }
        raise ambiguous(
            folder.source,
            f"the splits {named(splits)} beside {named(others)}, which is then left out (--split_names {choice})",
            all_read[needs],
        )
    return checked_splits(folder, splits, names)


def checked_splits(folder: Folder, splits: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The folder of each split, where each has one and train is among them.

    Raises:
        ValueError: If not.
    """
    folder_of: dict[str, str] = {}
    split_by_top = folder.splits()
    for top in splits:
        split = split_by_top[top]
        if split in folder_of:
            raise ValueError(
                f"--dataset {folder.source}: {folder_of[split]} and {top} both name the {split} split: choose by "
                f"--split_names train=FOLDER validation=FOLDER test=FOLDER"
            )
        folder_of[split] = top
    if "train" not in folder_of:
        raise ValueError(
            f"--dataset {folder.source} holds the splits {named(splits)} but no training images: choose by "
            f"--split_names, such as train={splits[0]}"
        )
    for top in names:
        if top not in splits:
            folder.listing.ignore(NO_CLASSES, take(folder, top))
    return {split: folder_of[split] for split in SPLIT_NAMES if split in folder_of}


def chosen_splits(folder: Folder, split_names: Mapping[str, str]) -> dict[str, str]:
    """The folders that the user named as splits; the images of others are noted as not read.

    Raises:
        ValueError: If a folder has no image.
    """
    for split, top in split_names.items():
        if top not in folder.tops:
            raise ValueError(
                f"--dataset {folder.source} has no folder of images {top} for --split_names {split}={top}, it has "
                f"{named(sorted(folder.tops))}"
            )
    for top in sorted(set(folder.tops) - set(split_names.values())):
        folder.listing.ignore(OUTSIDE, take(folder, top))
    folder.listing.ignore(OUTSIDE, folder.loose)
    folder.loose = []
    return dict(split_names)


def take(folder: Folder, top: str) -> list[str]:
    """Takes a first-level folder's images out of a folder."""
    return folder.tops.pop(top)


def split_parts(folder: Folder, splits: Mapping[str, str]) -> dict[str, Folder]:
    """The folder of each split; without splits all is train.

    Raises:
        ValueError: If an image lies outside the split folders.
    """
    if not splits:
        return {"train": folder}
    if folder.loose:
        raise ValueError(
            f"--dataset {folder.source}: {folder.loose[0]} lies outside the split folders "
            f"{named(list(splits.values()))}: move it into one"
        )
    return {split: below_doubled(folder, top) for split, top in splits.items()}


def below_doubled(folder: Folder, top: str) -> Folder:
    """The folder of a split; passes a single one of the same name in it, as archives unpack to."""
    below = folder.below(top)
    while not below.loose and list(below.tops) == [top]:
        below = below.below(top)
    return below


def class_rows(folder: Folder, split_names: Mapping[str, str], layout: str | None) -> ImageRows:
    """Reads class folders, with or without split folders around them.

    Raises:
        ValueError: If images lie outside class folders, a class folder is empty, or it is not clear which folders are
            the classes.
    """
    folder = descend(folder, split_names)
    splits = split_folders(folder, "labels", split_names, layout)
    parts = split_parts(folder, splits)
    deep = layout == "leaf_folders"
    rows = {split: classes_of(part, deep, layout is None, split == "train") for split, part in parts.items()}
    return ImageRows("folders of classes" if deep else "class folders", rows)


def classes_of(folder: Folder, deep: bool, is_open: bool, is_train: bool) -> list[tuple[str, str]]:
    """Returns each image with its class: the first folder below, or with `deep` the path of folders to the image."""
    where = f"{folder.source}{'/' if folder.base else ''}{folder.base}"
    if not folder.tops:
        raise ValueError(
            f"--dataset {where}: no images in class subfolders, expected {where}/CLASS/IMAGE.png, or metadata.csv "
            f"with the columns file_name and label{table_hint(folder.listing)}"
        )
    if folder.loose:
        raise ValueError(f"--dataset {where}: {folder.loose[0]} lies in no class folder: move it into one, or away")
    if is_train and (empty := folder.empty_folders()):
        raise ValueError(
            f"--dataset {where}: class folder {empty[0]} has no image that can be opened: remove it or add images"
            f"{plugin_hint(folder.listing)}"
        )
    if is_open:
        refuse_parts(folder, where)
        refuse_two_depths(folder, where)
    rows = []
    for top, names in folder.tops.items():
        for name in names:
            path = parts_of(inside(name, folder.base))[:-1]
            rows.append((name, unicodedata.normalize("NFC", "/".join(path) if deep else top)))
    return rows


def table_hint(listing: Listing) -> str:
    """Which table may hold the labels; empty if there is none."""
    tables = listing.tables
    return f"; a table of the labels can be given as --dataset {listing.path(tables[0])}" if tables else ""


def plugin_hint(listing: Listing) -> str:
    """What to install for images that need a plugin; empty if there are none."""
    names = listing.ignored.get(NEED_PLUGIN)
    return f"; {names[0]} needs a plugin of Pillow, such as pillow-heif" if names else ""


def refuse_parts(folder: Folder, where: str) -> None:
    """Refuses folders such as `images` and `masks` as classes.

    Raises:
        ValueError: Naming the folders.
    """
    if parts := [top for top in folder.tops if top.lower() in PARTS]:
        raise ValueError(
            f"--dataset {where}: {named(parts)} looks like a part of a data set and not like a class: name the folder "
            "that holds the class folders, or give --layout class_folders"
        )


def refuse_two_depths(folder: Folder, where: str) -> None:
    """Refuses class folders whose images lie in further folders, unless both readings give the same classes.

    Raises:
        ValueError: Naming both readings.
    """
    leaves = {top: {name.rpartition("/")[0] for name in names} for top, names in folder.tops.items()}
    nested = [top for top, found in leaves.items() if len(found) > 1 and folder.is_nested(top)]
    if nested:
        number = len(set().union(*leaves.values()))
        raise ambiguous(
            where,
            f"{counted(len(leaves), 'class')} such as {nested[0]} (--layout class_folders)",
            f"{counted(number, 'class')} such as {inside(min(leaves[nested[0]]), folder.base)} "
            "(--layout leaf_folders)",
        )


def plain_rows(folder: Folder, split_names: Mapping[str, str], layout: str | None) -> ImageRows:
    """Reads all training images, without labels.

    Raises:
        ValueError: If there is no image, or it is not clear which are the training images.
    """
    if not folder.listing.images:
        raise ValueError(
            f"--dataset {folder.source}: there is no image in this folder or below{plugin_hint(folder.listing)}"
        )
    folder = descend(folder, split_names)
    splits = split_folders(folder, None, split_names, layout)
    parts = split_parts(folder, splits)
    for split, part in parts.items():
        if split != "train":
            folder.listing.ignore(OTHER_SPLIT, images_of(part))
    if layout is None:
        refuse_nested_splits(parts["train"])
    return ImageRows("a folder of images", {"train": [(name, None) for name in images_of(parts["train"])]})


def images_of(folder: Folder) -> list[str]:
    """All images of a folder, sorted by name."""
    return sorted([*folder.loose, *(name for names in folder.tops.values() for name in names)])


def refuse_nested_splits(folder: Folder) -> None:
    """Refuses a folder of images below which a folder holds several splits, as all images would be read.

    Raises:
        ValueError: Naming the folder.
    """
    splits: dict[str, set[str]] = {}
    for name in images_of(folder):
        parts = parts_of(inside(name, folder.base))[:-1]
        for depth in range(1, len(parts)):
            if split := split_of(parts[depth]):
                splits.setdefault("/".join(parts[:depth]), set()).add(split)
    if mixed := sorted(where for where, names in splits.items() if len(names) > 1):
        raise ValueError(
            f"--dataset {folder.source}: {mixed[0]} holds split folders, and all images below would be read: name the "
            "folder of the training images, or give --layout images to read all"
        )


def ignore_unread(listing: Listing, *, read: Sequence[str] = ()) -> None:
    """Notes the tables and archives of a folder that are not read."""
    listing.ignore(TABLES, [name for name in listing.tables if name not in read])
    listing.ignore(ARCHIVES, [name for name in (*listing.parquet, *listing.shards) if name not in read])
