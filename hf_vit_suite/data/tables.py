"""Reads tables of image files with labels or captions: CSV, TSV and JSON lines. Every value stays the written text."""

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "filepath")
DELIMITERS = (",", "\t", ";", "|")
# Byte order marks with their encodings; UTF-32's begins with UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Table:
    """The rows of a table file.

    Args:
        path: The file.
        columns: Names of the columns.
        rows: Values by column: texts, lists of texts, or None where there is none.
    """

    path: str
    columns: list[str]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def file_column(self, given: str | None) -> str | None:
        """The column that names the image files; None if there is none."""
        if given is not None:
            return given if given in self.columns else None
        lower = {name.lower(): name for name in reversed(self.columns)}
        return next((lower[name] for name in FILE_COLUMNS if name in lower), None)


def read_table(path: str) -> Table:
    """Reads a table, by its suffix.

    Raises:
        ValueError: With the file and the line that can't be read.
    """
    text = decode_text(Path(path).read_bytes(), path)
    if Path(path).suffix.lower() in (".jsonl", ".ndjson"):
        return read_json_lines(path, text)
    return read_separated(path, text)


def decode_text(content: bytes, name: str) -> str:
    """The text of bytes in UTF-8, or in UTF-16 and UTF-32 with a byte order mark.

    Args:
        content: The bytes.
        name: What they are, for errors.

    Raises:
        ValueError: If they are in another encoding, as a guess could change captions without a word.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = content[:start].count(b"\n") + 1
        raise ValueError(f"{name} is not encoded in UTF-8 (line {line}): save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"{name} is not encoded in UTF-8 (it has zero bytes): save it as UTF-8")
    return text


def read_separated(path: str, text: str) -> Table:
    """Reads CSV, TSV, or the like with semicolons or bars; the header tells which.

    Raises:
        ValueError: If a row has more fields than the header, or two columns have one name.
    """
    delimiter = find_delimiter(path, text)
    try:
        lines = list(parse(text, delimiter, csv.QUOTE_MINIMAL))
    except csv.Error as error:
        lines = list(parse(text, delimiter, csv.QUOTE_NONE))
        # Tab-separated tables often have quotation marks that quote nothing; elsewhere, or mixed, they are a mistake.
        if delimiter != "\t" or any(is_quoted(field) for _, fields in lines for field in fields):
            raise ValueError(f"{path}: a quotation mark is not closed or not doubled: {error}") from error
    if not lines:
        raise ValueError(f"{path} is empty: expected a header with file_name and a label or text column")
    (_, header), *lines = lines
    columns = [name.strip() for name in header]
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise ValueError(f"{path} has two columns {twice}: rename or remove one")
    table = Table(path, columns)
    for number, values in lines:
        if len(values) > len(columns):
            raise ValueError(
                f"{path}, line {number}: {len(values)} fields where the header has {len(columns)}: quote a text that "
                f"holds {'a tab' if delimiter == chr(9) else repr(delimiter)}"
            )
        values = [*values, *[None] * (len(columns) - len(values))]
        table.rows.append(dict(zip(columns, values, strict=True)))
    return table


def find_delimiter(path: str, text: str) -> str:
    """The delimiter with which the header has most columns; of equals, the one that suits the file's name."""
    header = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    preferred = "\t" if path.lower().endswith(".tsv") else ","

    def fields(delimiter: str) -> tuple[bool, int, bool]:
        names = [name.strip(' "').lower() for name in header.split(delimiter)]
        return len(names) > 1 and any(name in FILE_COLUMNS for name in names), len(names), delimiter == preferred

    return max(DELIMITERS, key=fields)


def parse(text: str, delimiter: str, quoting: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and the fields of each row that is not blank."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default limit of 128 KiB is below some captions
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True, skipinitialspace=True
    )
    for fields in reader:
        if any(field.strip() for field in fields):
            yield reader.line_num, fields


def is_quoted(field: str) -> bool:
    """Whether a field stands in quotation marks."""
    return len(field) > 1 and field[0] == field[-1] == '"'


def read_json_lines(path: str, text: str) -> Table:
    """Reads one JSON object a line; numbers, true and false stay as they are written, nested names get dots.

    Raises:
        ValueError: If a line is no JSON object.
    """
    table = Table(path, [])
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error})") from error
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: expected a JSON object such as {{"file_name": ...}}')
        row = flatten(row)
        columns.update(dict.fromkeys(row))
        table.rows.append(row)
    table.columns = list(columns)
    return table


def parse_json(text: str) -> Any:
    """Parses JSON with numbers as the texts that were written, true and false as such texts, and null as None."""
    return as_text(json.loads(text, parse_int=str, parse_float=str, parse_constant=str))


def as_text(value: Any) -> Any:
    """Replaces the truth values in a parsed JSON value by their JSON texts."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return [as_text(part) for part in value]
    if isinstance(value, dict):
        return {name: as_text(part) for name, part in value.items()}
    return value


def flatten(row: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Joins the names of nested objects by dots: `{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat
