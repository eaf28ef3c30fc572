"""Reads webdataset shards: tar files in which members of the same key are one sample."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .columns import find_name
from .listing import image_suffixes, is_image_content
from .tables import decode_text, flatten, parse_json

TEXT_SUFFIXES = ("cls", "cls2", "label", "labels", "txt", "text", "caption", "class", "index")
SAMPLES_LOOKED_AT = 200


@dataclass
class Sample:
    """The members of one key.

    Args:
        key: Path without suffix.
        fields: Content by suffix in lower case, without its first dot; the suffix may be empty.
        names: Path of the shard and the member, by suffix.
    """

    key: str
    fields: dict[str, bytes]
    names: dict[str, str]


def samples(shard: str) -> Iterator[Sample]:
    """Reads the samples of a shard in order.

    Raises:
        ValueError: If the shard can't be read.
    """
    sample: Sample | None = None
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                content = archive.extractfile(member) if stem else None
                if content is None:  # a folder, or a link to one
                    continue
                key = f"{folder}/{stem}" if folder else stem
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield sample
                    sample = Sample(key, {}, {})
                suffix = suffix.lower()
                if suffix in sample.fields:
                    raise ValueError(
                        f"{sample.names[suffix]} and {member.name} are of one sample and suffix: remove one"
                    )
                sample.fields[suffix] = content.read()
                sample.names[suffix] = f"{shard}/{member.name}"
            refuse_cut(archive, shard)
    except (tarfile.TarError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{shard} can't be read: {' '.join(str(error).split())}") from error
    if sample is not None:
        yield sample


def refuse_cut(archive: tarfile.TarFile, shard: str) -> None:
    """Refuses a shard that ends in the middle: tarfile takes a damaged header for the end.

    Raises:
        ValueError: If the archive ends in anything but its end mark.
    """
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(tarfile.BLOCKSIZE)
    if block and (len(block) < tarfile.BLOCKSIZE or any(block)):
        raise ValueError(f"{shard} can't be read: it is damaged or cut off after {archive.offset:,} bytes")


def image_field(sample: Sample, given: str | None) -> str | None:
    """The field of the image: the given one, else one with the suffix of an image, else one with its content.

    Raises:
        ValueError: If several could be it.
    """
    if given is not None and given != "image":
        return given.lower() if given.lower() in sample.fields else None
    found = [name for name in sample.fields if "." + name.rpartition(".")[2] in image_suffixes()]
    found = [name for name in found if "." not in name] or found
    if len(found) > 1:
        raise ValueError(f"{sample.key} has the images {', '.join(found)}: choose one by --image_column")
    if found:
        return found[0]
    return next((name for name, content in sample.fields.items() if is_image(content)), None)


def is_image(content: bytes) -> bool:
    """Whether bytes are an image."""
    return is_image_content(io.BytesIO(content))


def values(sample: Sample) -> dict[str, Any]:
    """The texts and numbers of a sample by column: `cls`, `txt`, `json.caption`. Numbers stay the written text."""
    found: dict[str, Any] = {}
    for name, content in sample.fields.items():
        if name in TEXT_SUFFIXES:
            found[name] = decode_text(content, sample.names[name]).strip()
        elif name == "json":
            found |= flatten({"json": json_value(content, sample)})
    return found


def json_value(content: bytes, sample: Sample) -> dict[str, Any]:
    """Parses a `.json` member.

    Raises:
        ValueError: If it is no JSON object.
    """
    try:
        value = parse_json(decode_text(content, sample.names["json"]))
    except json.JSONDecodeError as error:
        raise ValueError(f"{sample.names['json']} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{sample.names['json']}: expected a JSON object")
    return value


def value_column(shards: Sequence[str], given: str | None, kind: str, source: str) -> tuple[str, bool]:
    """Finds the column of labels or captions among the first samples, and whether it holds lists.

    Raises:
        ValueError: If there is none.
    """
    seen: dict[str, bool] = {}
    others: set[str] = set()
    for number, sample in enumerate(samples(shards[0])):
        if number == SAMPLES_LOOKED_AT:
            break
        for name, value in values(sample).items():
            seen[name] = seen.get(name, False) or isinstance(value, list)
        others.update(sample.fields)
    if not seen:
        raise ValueError(
            f"--dataset {source}: no sample has a {kind} in .cls, .txt, .json or such; the suffixes, from the first "
            f"dot of a name on, are {', '.join(sorted(others)[:5])}"
        )
    column = find_name(list(seen), given, kind, source)
    return column, seen[column]


def shard_rows(
    shards: Sequence[str], image_column: str | None, column: str | None, is_list: bool, stamp: str
) -> Iterator[dict[str, Any]]:
    """Yields rows of `image` and, if a column is given, `value`.

    A sample without an image gives a row that can't be decoded, so that it is counted and named with such images.

    Args:
        shards: Paths.
        image_column: Field of the image; default found by suffix or content.
        column: Column of the value.
        is_list: Whether values are lists.
        stamp: Sizes and times of the shards, which tell `datasets` whether its copy is up to date.
    """
    for shard in shards:
        for sample in samples(shard):
            field = image_field(sample, image_column)
            if field is None:
                image = {"bytes": b"", "path": f"{shard}/{sample.key} (a sample without an image)"}
            else:
                image = {"bytes": sample.fields[field], "path": sample.names[field]}
            row = {"image": image}
            if column is not None:
                value = values(sample).get(column)
                if isinstance(value, list) and not is_list:
                    raise ValueError(
                        f"{shard}/{sample.key} has a list in {column} where the first samples have one value: "
                        "write lists everywhere"
                    )
                row["value"] = value if isinstance(value, list) or not is_list or value is None else [value]
            yield row
