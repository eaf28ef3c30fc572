"""Reads the labels or captions that tables give to the images of a folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .columns import USUAL, find_name, several_columns
from .layout import (
    OUTSIDE,
    SPLIT_NAMES,
    Folder,
    ImageRows,
    descend,
    named,
    parts_of,
    refuse_nested_splits,
    split_folders,
    split_of,
    split_parts,
)
from .listing import Listing
from .matching import FileNames
from .request import Request
from .splits import split_column, splits_of_values
from .tables import Table, read_table

STEM = "metadata"


@dataclass
class Described:
    """Images with the values that tables give them.

    Args:
        rows: Image and value, in the order of the tables.
        splits: The split of each image that a column of its table names.
        undescribed: Images without a row.
        tables: The tables.
        columns: The columns of the values, if there are several.
    """

    rows: list[tuple[str, Any]]
    undescribed: list[str]
    tables: list[str]
    columns: list[str] | None
    splits: dict[str, str] = field(default_factory=dict)


def metadata_files(listing: Listing) -> list[str]:
    """The tables called metadata, in any case and any folder."""
    files = [*listing.tables, *listing.parquet]
    return [name for name in files if os.path.splitext(os.path.basename(name))[0].lower() == STEM]


def open_tables(listing: Listing, names: Sequence[str]) -> list[Table]:
    """Reads tables.

    Raises:
        ValueError: If one can't be read.
    """
    return [
        parquet_table(listing.path(name)) if is_parquet(name) else read_table(listing.path(name)) for name in names
    ]


def is_parquet(name: str) -> bool:
    """Whether a file is a parquet file, by its name."""
    return name.lower().endswith(".parquet")


def parquet_table(path: str) -> Table:
    """Reads a parquet table of file names; numbers become text."""
    try:
        table = pq.read_table(path)
    except Exception as error:  # pyarrow raises many types
        raise ValueError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    while any(pa.types.is_struct(column.type) for column in table.schema):
        table = table.flatten()
    rows = [{name: written(value) for name, value in row.items()} for row in table.to_pylist()]
    return Table(path, table.column_names, rows)


def written(value: Any) -> Any:
    """Numbers as text, also in lists; the number that stands for none as None."""
    if isinstance(value, list):
        return [written(part) for part in value]
    if not isinstance(value, int | float):
        return value
    return None if value != value else str(value)


def names_values(table: Table, request: Request) -> bool:
    """Whether a table names image files and holds the wanted column."""
    file_column, given = table.file_column(request.image_column), request.value_column
    names = [name for name in table.columns if name != file_column]
    if file_column is None:
        return False
    if given is not None:
        return given in names or several_columns(names, given) is not None
    return any(name in USUAL[request.kind] for name in names)


def describe(listing: Listing, tables: Sequence[Table], request: Request) -> Described:
    """Finds the image of each row and its value.

    Args:
        listing: The folder's files.
        tables: Tables of it.
        request: What is wanted.

    Raises:
        ValueError: If a column can't be found, no file of a table is there, or an image is in two splits.
    """
    files = FileNames(str(listing.folder), listing.images)
    rows: list[tuple[str, Any]] = []
    splits: dict[str, str] = {}
    said: set[tuple[str, str]] = set()
    for table in tables:  # a table that says again what another says, such as a copy in another format, adds nothing
        every = table_rows(table, files, request)
        found = [row for row in every if keyed(row) not in said]
        rows += found
        said.update(map(keyed, found))
        for (name, _), split in zip(every, row_splits(table, request), strict=False):
            if splits.setdefault(name, split) != split:
                raise ValueError(f"--dataset {request.source}: {name} is in the splits {splits[name]} and {split}")
    described = {name for name, _ in rows}
    undescribed = [name for name in listing.images if name not in described]
    relative = [os.path.relpath(table.path, listing.folder) for table in tables]
    columns = [several for table in tables if (several := several_columns(table.columns, request.value_column))]
    return Described(rows, undescribed, relative, columns[0] if columns else None, splits)


def row_splits(table: Table, request: Request) -> list[str]:
    """The split of each row, by a column of that meaning; `OUTSIDE` for other names than the user's.

    Empty without such a column, or if it names no or one split, as the set of a toy or the origin of a file would.

    Raises:
        ValueError: If some values name splits and others do not.
    """
    column = split_column(table.columns)
    return splits_of_values(column, [row.get(column) for row in table.rows], request, table.path) if column else []


def keyed(row: tuple[str, Any]) -> tuple[str, str]:
    """An image and its value as a key."""
    return row[0], repr(row[1])


def table_rows(table: Table, files: FileNames, request: Request) -> list[tuple[str, Any]]:
    """The image and the value of each row of a table; as `describe`."""
    kind, file_column = request.kind, table.file_column(request.image_column)
    if file_column is None:
        raise ValueError(
            f"{table.path} has the columns {named(table.columns)}: expected file_name and {kind}, or name the column "
            "of the files by --image_column"
        )
    columns, several = value_columns(table, file_column, request)
    below = os.path.relpath(os.path.dirname(table.path), files.folder)
    rows, found = [], 0
    for row in table.rows:
        file = row.get(file_column)
        if not isinstance(file, str) or not file.strip():
            raise ValueError(f"{table.path}: a row has no file name in its column {file_column}")
        name = files.find(file, below)
        found += name is not None
        values = [row.get(column) for column in columns]
        if any(isinstance(part, list | dict) for value in values if isinstance(value, list) for part in value):
            raise ValueError(f"{table.path}: expected texts as {kind}s, {file} has {values[0]!r}")
        rows.append((name or os.path.normpath(os.path.join(below, file)), values if several else values[0]))
    if rows and not found:
        raise ValueError(
            f"{table.path} names no image that is there, such as {rows[0][0]}: file names are relative to the table"
        )
    return rows


def value_columns(table: Table, file_column: str, request: Request) -> tuple[list[str], bool]:
    """The columns of the values, and whether the user named several; as `describe`."""
    kind, given = request.kind, request.value_column
    names = [name for name in table.columns if name != file_column]
    if several := several_columns(names, given):
        return several, True
    if given is None and not any(name in USUAL[kind] for name in names):
        raise ValueError(
            f"{table.path} has the columns {named(table.columns)}: expected file_name and {kind}, or name the column "
            f"of the {kind}s by --{kind}_column"
        )
    return [find_name(names, given, kind, f"{request.source} ({table.path})")], False


def one_row_an_image(rows: Sequence[tuple[str, Any]], gather: bool, source: str) -> list[tuple[str, Any]]:
    """Joins the rows of an image: equal labels are one; others are a list with `gather`.

    Raises:
        ValueError: If an image has two labels without `gather`.
    """
    labels: dict[str, list] = {}
    for name, value in rows:
        found = labels.setdefault(name, [])
        if value not in found:
            found.append(value)
    several = next(((name, found) for name, found in labels.items() if len(found) > 1), None)
    if several is not None and not gather:
        name, found = several
        raise ValueError(
            f"--dataset {source}: {name} has the labels {found[0]} and {found[1]}: give --problem_type "
            "multi_label_classification to learn both, or remove one"
        )
    if several is not None:
        return [(name, [value for value in found if value is not None]) for name, found in labels.items()]
    return [(name, found[0]) for name, found in labels.items()]


def metadata_rows(folder: Folder, described: Described, request: Request) -> ImageRows:
    """Parts described images into the splits that their tables name, else into those of their folders."""
    if described.splits:
        rows = rows_by_column(folder, described, request.source)
    else:
        rows = rows_by_folder(folder, described, request)
    if empty := [split for split, found in rows.items() if not found]:
        raise ValueError(
            f"--dataset {request.source}: no row of {named(described.tables)} names an image of the {empty[0]} split"
        )
    return ImageRows("a table", rows, described.tables)


def rows_by_column(folder: Folder, described: Described, source: str) -> dict[str, list[tuple[str, Any]]]:
    """Rows by the split that a column names; without a name they are training images.

    Raises:
        ValueError: If images lie in the folders of several splits, and one in that of another than its row says.
    """
    rows: dict[str, list[tuple[str, Any]]] = {split: [] for split in SPLIT_NAMES}
    above = {name: found for name, _ in described.rows for part in parts_of(name)[:-1] if (found := split_of(part))}
    in_folders = len(set(above.values())) > 1
    for name, value in described.rows:
        split = described.splits.get(name, "train")
        if in_folders and split not in (above.get(name, split), OUTSIDE):
            raise ValueError(f"--dataset {source}: {name} lies in the {above[name]} split but its row says {split}")
        rows.setdefault(split, []).append((name, value))
    folder.listing.ignore(OUTSIDE, sorted({name for name, _ in rows.pop(OUTSIDE, [])}))
    return {split: found for split, found in rows.items() if found or split == "train"}


def rows_by_folder(folder: Folder, described: Described, request: Request) -> dict[str, list[tuple[str, Any]]]:
    """Rows by the split folder of their images.

    Raises:
        ValueError: If an image lies outside the split folders, or it is not clear which these are.
    """
    folder = descend(folder, request.split_names)
    splits = split_folders(folder, "captions", request.split_names, request.layout)
    parts = split_parts(folder, splits)
    if not splits:
        refuse_nested_splits(folder)
    base = f"{folder.base}/" if folder.base else ""
    rows: dict[str, list[tuple[str, Any]]] = {split: [] for split in parts}
    for name, value in described.rows:
        split = next((split for split, top in splits.items() if name.startswith(f"{base}{top}/")), None)
        if split is not None or not splits:
            rows[split or "train"].append((name, value))
        elif not request.split_names:
            raise ValueError(f"--dataset {folder.source}: {name} lies outside the split folders: move it into one")
    return rows
