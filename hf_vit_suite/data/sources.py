"""Opens any source of images as splits with the columns `image` and, if needed, `label` or `text`."""

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, IterableDataset, List, Value

from .archives import open_idx, open_parquet, open_shards
from .arrays import IDX_IMAGES, load_digits
from .columns import UNDECODED
from .labels import MULTI
from .layout import (
    LAYOUTS,
    PARTS,
    Folder,
    ImageRows,
    ambiguous,
    class_rows,
    descend,
    ignore_unread,
    named,
    plain_rows,
)
from .listing import Listing, list_folder, sort_file
from .metadata import describe, metadata_files, metadata_rows, names_values, one_row_an_image, open_tables
from .objects import Source, object_splits
from .parquet import holds_images
from .request import Opened, Request, cause_of
from .splits import from_columns, in_memory

IMAGE_FIELDS = ["bytes", "path"]


def open_source(source: Source, request: Request) -> Opened:
    """Opens the splits that a source itself defines.

    Raises:
        ValueError: If the source can't be read, holds nothing of what is needed, or can be read in several ways.
        FileNotFoundError: If a path does not exist.
    """
    if not isinstance(source, str | os.PathLike):
        return from_columns(in_memory(object_splits(source), request.streaming), request, "a data set object")
    source = os.fspath(source)
    if not source.strip():
        raise ValueError("--dataset is empty: name digits, a file, a folder or a Hub data set")
    if source == "digits":
        return from_columns(in_memory({"train": load_digits()}, request.streaming), request, "scikit-learn's digits")
    path = local_path(source)
    if path.is_dir():
        return open_folder(list_folder(path), request)
    if path.is_file():
        return open_files([path], request)
    if path.exists():
        raise ValueError(f"--dataset {source} is neither a file nor a folder")
    if files := matching_files(source):
        return open_files(files, request)
    # A version's dot starts no file suffix: `owner/data-v1.0` is a Hub name.
    if os.path.isabs(source) or source[0] in ".~" or path.suffix[1:].isalpha() or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    return from_columns(open_hub(source, request.streaming), request, "a Hub data set")


def local_path(source: str) -> Path:
    """Returns a source's absolute path; expands a leading `~` or `~user`, but not `./~x`."""
    return Path(os.path.expanduser(source)).absolute()


def matching_files(source: str) -> list[Path]:
    """The files that match a pattern; the folders before its first sign are taken literally if they exist."""
    if not glob.has_magic(source):
        return []
    parts = Path(os.path.expanduser(source)).parts
    literal = next(
        number for number in range(len(parts), -1, -1) if os.path.isdir(os.path.join("", *parts[:number]) or ".")
    )
    folder = os.path.join("", *parts[:literal]) or "."
    names = sorted(glob.glob(os.path.join(*parts[literal:]), root_dir=folder, recursive=True))
    return [path for name in names if (path := Path(folder, name).absolute()).is_file()]


def open_folder(listing: Listing, request: Request) -> Opened:
    """Opens a folder of images, tables and archives, by what is in it."""
    readers: dict[str, Callable[[Listing, Request], Opened]] = {
        "class_folders": open_classes,
        "leaf_folders": open_classes,
        "images": open_images,
        "metadata": open_metadata,
        "parquet": open_parquet,
        "webdataset": open_shards,
        "idx": open_idx,
    }
    layout = find_layout(listing, request)
    opened = readers[layout](listing, request)
    opened.ignored = listing.ignored
    return opened


def find_layout(listing: Listing, request: Request) -> str:
    """Finds what a folder is: the layout chosen by the user, or the only one that its files allow.

    Raises:
        ValueError: If several are possible.
    """
    if request.layout is not None:
        if request.layout not in LAYOUTS:
            raise ValueError(f"--layout must be one of {', '.join(LAYOUTS)}, got {request.layout}")
        return request.layout
    archives = archive_layouts(listing, request)
    folder = descend(Folder(listing, listing.images, "", request.source), request.split_names)
    images = image_layouts(listing, folder, request)
    if len(images) > 1:
        raise ambiguous(
            request.source,
            "class folders (--layout class_folders)",
            f"images with labels in {named(metadata_files(listing))} (--layout metadata)",
        )
    if archives and images and are_strays(folder, images[0], archives):
        return images[0]
    found = [*images, *archives]
    if len(found) > 1:
        example = {images[0]: listing.images} if images else {}
        readings = [f"{(example | archives)[layout][0]} and such (--layout {layout})" for layout in found]
        raise ambiguous(request.source, *readings)
    if found:
        return found[0]
    return {"labels": "class_folders", "captions": "metadata", None: "images"}[request.needs]


def archive_layouts(listing: Listing, request: Request) -> dict[str, list[str]]:
    """The possible layouts of files that hold many images, with those files."""
    idx = idx_files(listing)
    metadata = metadata_files(listing)
    tables = [name for name in listing.parquet if name not in metadata]
    parquet = [name for name in tables if may_hold_images(listing, name, request)]
    layouts = {"parquet": parquet, "webdataset": listing.shards, "idx": idx if request.needs != "captions" else []}
    return {layout: names for layout, names in layouts.items() if names}


def may_hold_images(listing: Listing, name: str, request: Request) -> bool:
    """Whether a parquet file holds images; one that can't be read does not, if there are image files.

    Raises:
        ValueError: If the file can't be read and there is no image.
    """
    try:
        return holds_images(listing.path(name), request.image_column)
    except ValueError:
        if listing.images:
            return False
        raise


def idx_files(listing: Listing) -> list[str]:
    """The IDX files of images in the folder itself."""
    return [path.name for path in sorted(listing.folder.iterdir()) if IDX_IMAGES.fullmatch(path.name)]


def image_layouts(listing: Listing, folder: Folder, request: Request) -> list[str]:
    """The possible layouts of the images of a folder."""
    if not listing.images:
        return []
    if request.needs is None:
        return ["images"]
    tables = open_tables(listing, metadata_files(listing))
    described = any(names_values(table, request) for table in tables)
    if request.needs == "captions":
        return ["metadata"] if tables else []
    return ["class_folders"] * has_classes(folder) + ["metadata"] * described


def has_classes(folder: Folder) -> bool:
    """Whether folders may be classes: there are several, not only `train`, `test` and the like without any below."""
    if any(folder.is_nested(top) for top in folder.tops):
        return True
    return len(folder.tops) > 1 and len(folder.splits()) < len(folder.tops)


def are_strays(folder: Folder, layout: str, archives: Mapping[str, Sequence[str]]) -> bool:
    """Whether archives lie beside or in folders of images or described images, not in folders of their own."""
    if layout != "metadata" and all(top.lower() in PARTS for top in folder.tops):
        return False
    return all(
        "/" not in name or any(name.startswith(f"{top}/") for top in folder.tops)
        for names in archives.values()
        for name in names
    )


def open_classes(listing: Listing, request: Request) -> Opened:
    """Opens class folders."""
    if request.needs == "captions":
        raise ValueError(f"--dataset {request.source}: class folders give no captions")
    ignore_unread(listing)
    folder = Folder(listing, listing.images, "", request.source)
    return image_rows(listing, class_rows(folder, request.split_names, request.layout), request)


def open_images(listing: Listing, request: Request) -> Opened:
    """Opens images without labels."""
    if request.needs is not None:
        raise ValueError(f"--layout images gives no {request.needs}: it is for pretraining on images alone")
    ignore_unread(listing)
    folder = Folder(listing, listing.images, "", request.source)
    return image_rows(listing, plain_rows(folder, request.split_names, request.layout), request)


def open_metadata(listing: Listing, request: Request, tables: Sequence[str] | None = None) -> Opened:
    """Opens images that tables describe.

    Args:
        listing: The folder's files.
        request: What is wanted.
        tables: The tables; default those called metadata.

    Raises:
        ValueError: If there is none, or as `describe`.
    """
    names = list(tables) if tables is not None else metadata_files(listing)
    if not names:
        wanted = f"a file {listing.folder}/metadata.csv (or .tsv, .jsonl, .parquet) with the columns file_name and"
        others = f"; rename {listing.tables[0]}, or give it as --dataset" if listing.tables else ""
        raise ValueError(f"--dataset {listing.folder}: no {request.needs}, expected {wanted} {request.kind}{others}")
    described = describe(listing, open_tables(listing, names), request)
    if request.needs == "labels":
        described.rows = one_row_an_image(described.rows, request.problem_type == MULTI, request.source)
    folder = Folder(listing, listing.images, "", request.source)
    rows = metadata_rows(folder, described, request)
    ignore_unread(listing, read=names)
    opened = image_rows(listing, rows, request)
    opened.undescribed = [listing.path(name) for name in described.undescribed]
    opened.columns = described.columns
    return opened


def has_lists(rows: ImageRows) -> bool:
    """Whether a value is a list."""
    return any(isinstance(value, list) for found in rows.splits.values() for _, value in found)


def image_rows(listing: Listing, rows: ImageRows, request: Request) -> Opened:
    """Makes splits of files and values."""
    features: dict[str, Any] = {"image": UNDECODED}
    column = request.kind
    if request.needs == "captions":
        features[column] = List(Value("string"))
    elif request.needs == "labels" and rows.tables:
        features[column] = List(Value("string")) if has_lists(rows) else Value("string")
    elif request.needs == "labels":
        names = sorted({value for found in rows.splits.values() for _, value in found})
        features[column], number = ClassLabel(names=names), {name: index for index, name in enumerate(names)}
        rows.splits = {split: [(file, number[name]) for file, name in found] for split, found in rows.splits.items()}
    splits = {}
    for split, found in rows.splits.items():
        paths = [name if os.path.isabs(name) else listing.path(name) for name, _ in found]
        columns: dict[str, Any] = {"image": image_paths(paths)}
        if request.needs is not None:
            is_list = isinstance(features[column], List)
            columns[column] = [as_list(value) if is_list else value for _, value in found]
        splits[split] = Dataset.from_dict(columns, features=Features(features))
    files = {split: [name for name, _ in found] for split, found in rows.splits.items()}
    return Opened(in_memory(splits, request.streaming), rows.layout, files=files)


def image_paths(paths: Sequence[str]) -> pa.StructArray:
    """Image values of files; in Arrow at once, as a Python value for each takes seconds for a million."""
    return pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), pa.array(paths, pa.string())], IMAGE_FIELDS)


def as_list(value: Any) -> list:
    """A value of a table as a list, without what is empty."""
    return [part for part in (value if isinstance(value, list) else [value]) if part is not None]


def open_files(paths: Sequence[Path], request: Request) -> Opened:
    """Opens files named one by one or by a pattern: parquet, shards, or a table of images.

    Raises:
        ValueError: If they are of other or several kinds.
    """
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    listing = Listing(folder)
    for path in paths:
        sort_file(listing, os.path.relpath(path, folder))
    opened = None
    if listing.parquet and len(listing.parquet) == len(paths):
        opened = open_parquet(listing, request)
    elif listing.shards and len(listing.shards) == len(paths):
        opened = open_shards(listing, request)
    elif len(paths) == len(listing.tables) == 1 and request.needs is not None:
        (table,), listing = listing.tables, list_folder(folder)
        opened = open_metadata(listing, request, tables=[table])
    if opened is not None:
        opened.ignored = listing.ignored
        return opened
    raise ValueError(
        f"--dataset {request.source}: expected parquet or .tar files, a table of images (.csv, .tsv, .jsonl), or a "
        f"folder of images, got {paths[0].name}{' and others' * (len(paths) > 1)}"
    )


def open_hub(source: str, streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """Opens a data set of the Hub."""
    try:
        return datasets.load_dataset(source, streaming=streaming)
    except Exception as error:  # datasets raises many types
        named = f"--dataset {source} is neither digits nor a file or folder here, and as a Hub data set it"
        raise ValueError(f"{named} can't be read: {cause_of(error)}") from error
