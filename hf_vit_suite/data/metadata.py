"""Reads the labels or captions that tables give to the images of a folder."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .columns import USUAL, Kind, find_name, several_columns
from .layout import Folder, ImageRows, descend, named, refuse_nested_splits, split_folders, split_parts
from .listing import Listing
from .matching import FileNames
from .tables import Table, read_table

STEM = "metadata"


@dataclass
class Described:
    """Images with the values that tables give them.

    Args:
        rows: Image and value, in the order of the tables.
        undescribed: Images without a row.
        tables: The tables.
        columns: The columns of the values, if there are several.
    """

    rows: list[tuple[str, Any]]
    undescribed: list[str]
    tables: list[str]
    columns: list[str] | None


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
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except Exception as error:  # pyarrow raises many types
        raise ValueError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    rows = [{name: written(value) for name, value in row.items()} for row in table.to_pylist()]
    return Table(path, table.column_names, rows)


def written(value: Any) -> Any:
    """A number as text; the number that stands for none as None."""
    if not isinstance(value, int | float):
        return value
    return None if value != value else str(value)


def names_values(table: Table, kind: Kind, given: str | None, image_column: str | None) -> bool:
    """Whether a table names image files and holds the wanted column."""
    file_column = table.file_column(image_column)
    names = [name for name in table.columns if name != file_column]
    wanted = USUAL[kind] if given is None else [given] if given in names else given.split(",")
    if given is not None:
        return file_column is not None and all(name in names for name in wanted)
    return file_column is not None and any(name in names for name in wanted)


def describe(
    listing: Listing, tables: Sequence[Table], kind: Kind, given: str | None, image_column: str | None, source: str
) -> Described:
    """Finds the image of each row and its value.

    Args:
        listing: The folder's files.
        tables: Tables of it.
        kind: What the values are.
        given: The column of the values, or several with commas between; default one with a usual name.
        image_column: The column of the file names; default one with a usual name.
        source: Name of the data set, for errors.

    Raises:
        ValueError: If a column can't be found, or no file of a table is there.
    """
    files = FileNames(str(listing.folder), listing.images)
    rows: list[tuple[str, Any]] = []
    for table in tables:
        rows += table_rows(table, files, kind, given, image_column, source)
    described = {name for name, _ in rows}
    undescribed = [name for name in listing.images if name not in described]
    relative = [os.path.relpath(table.path, listing.folder) for table in tables]
    columns = [several for table in tables if (several := several_columns(table.columns, given))]
    return Described(rows, undescribed, relative, columns[0] if columns else None)


def table_rows(
    table: Table, files: FileNames, kind: Kind, given: str | None, image_column: str | None, source: str
) -> list[tuple[str, Any]]:
    """The image and the value of each row of a table; as `describe`."""
    file_column = table.file_column(image_column)
    if file_column is None:
        raise ValueError(
            f"{table.path} has the columns {named(table.columns)}: expected file_name and {kind}, or name the column "
            "of the files by --image_column"
        )
    names = [name for name in table.columns if name != file_column]
    several = several_columns(names, given)
    if several:
        columns = several
    elif given is None and not any(name in USUAL[kind] for name in names):
        raise ValueError(
            f"{table.path} has the columns {named(table.columns)}: expected file_name and {kind}, or name the column "
            f"of the {kind}s by --{kind}_column"
        )
    else:
        columns = [find_name(names, given, kind, f"{source} ({table.path})")]
    below = os.path.relpath(os.path.dirname(table.path), files.folder)
    rows, found = [], 0
    for row in table.rows:
        file = row.get(file_column)
        if not isinstance(file, str) or not file.strip():
            raise ValueError(f"{table.path}: a row has no file name in its column {file_column}")
        name = files.find(file, below)
        found += name is not None
        values = [row.get(column) for column in columns]
        rows.append((name or os.path.normpath(os.path.join(below, file)), values if several else values[0]))
    if rows and not found:
        raise ValueError(
            f"{table.path} names no image that is there, such as {rows[0][0]}: file names are relative to the table"
        )
    return rows


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


def metadata_rows(folder: Folder, described: Described, split_names: dict[str, str]) -> ImageRows:
    """Parts described images into the splits of their folders."""
    folder = descend(folder, split_names)
    splits = split_folders(folder, "captions", split_names)
    parts = split_parts(folder, splits)
    if not splits:
        refuse_nested_splits(folder)
    base = f"{folder.base}/" if folder.base else ""
    rows: dict[str, list[tuple[str, Any]]] = {split: [] for split in parts}
    for name, value in described.rows:
        split = next((split for split, top in splits.items() if name.startswith(f"{base}{top}/")), None)
        if split is not None or not splits:
            rows[split or "train"].append((name, value))
        elif not split_names:
            raise ValueError(f"--dataset {folder.source}: {name} lies outside the split folders: move it into one")
    if empty := [split for split, found in rows.items() if not found]:
        raise ValueError(
            f"--dataset {folder.source}: no row of {named(described.tables)} names an image of the {empty[0]} split"
        )
    return ImageRows("a table", rows, described.tables)
