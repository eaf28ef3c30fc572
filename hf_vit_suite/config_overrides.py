"""Changes to a config as text or nested fields: `num_hidden_layers=6,vision_config.patch_size=8`."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

# 224 or 192x256, also as 192,256 and in brackets.
IMAGE_SIZE = re.compile(r"[\[(]?\s*(\d+)(?:\s*[xX×,]\s*(\d+))?\s*[\])]?")


def parse_overrides(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """`"num_hidden_layers=6,pooling=mean"` -> `{"num_hidden_layers": 6, "pooling": "mean"}`.

    A dot names a field of a nested config: `"vision_config.patch_size=8"` -> `{"vision_config": {"patch_size": 8}}`.
    Values are JSON, such as `image_size=[32,64]` or `hidden_act="gelu"`, or text up to the next comma.
    An `image_size` may also be HEIGHTxWIDTH. A mapping only has its dots resolved.

    Raises:
        ValueError: If a pair has no `=` or no name, or a field is set both to a value and by its own fields.
    """
    if isinstance(given, Mapping):
        return nested_fields(copy.deepcopy(dict(given)))  # the caller's own stays as it is
    overrides: dict[str, Any] = {}
    rest = given or ""
    while rest := rest.lstrip(", "):
        name, separator, rest = rest.partition("=")
        if not separator or "," in name or not all(map(str.strip, name.split("."))):
            pair = name.split(",")[0] if "," in name else f"{name}{separator}"
            raise ValueError(f"--config_overrides takes name=value pairs with commas between, got {pair!r}")
        value, rest = split_value(rest.lstrip())
        overrides = merged_overrides(overrides, nested_fields({name.strip(): value}))
    return overrides


def parse_image_size(given: int | str | Sequence[int], name: str = "--image_size") -> int | list[int]:
    """`224`, `"224"` -> `224`, the side of a square; `"192x256"`, `(192, 256)` -> `[192, 256]`, height and width.

    Args:
        given: A size in pixels.
        name: Of the option, for the error.

    Raises:
        ValueError: If it is neither a side nor a height and a width, or not positive.
    """
    if isinstance(given, str):
        match = IMAGE_SIZE.fullmatch(given.strip())
        sides = [int(side) for side in match.groups() if side is not None] if match else []
    else:
        sides = list(given) if isinstance(given, Sequence) else [given]
    is_whole = all(isinstance(side, Integral) and not isinstance(side, bool) and side > 0 for side in sides)
    if len(sides) not in (1, 2) or not is_whole:
        raise ValueError(f"{name} must be a side such as 224, or HEIGHTxWIDTH such as 192x256, got {given!r}")
    return int(sides[0]) if len(set(sides)) == 1 else [int(side) for side in sides]


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size, as `parse_image_size` returns it."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def split_value(text: str) -> tuple[Any, str]:
    """`"[1,2],b=3"` -> `([1, 2], "b=3")`: the first value, and what follows the comma after it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
        rest = text[end:].lstrip()
        if rest and not rest.startswith(","):  # a text that only begins like JSON, such as 2d
            raise ValueError
    except ValueError:
        value, _, rest = text.partition(",")
        return value.strip(), rest
    return value, rest[1:]


def nested_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`{"vision_config.patch_size": 8}` -> `{"vision_config": {"patch_size": 8}}`; nested ones stay as they are.

    Raises:
        ValueError: If a field is set both to a value and by its own fields.
    """
    nested: dict[str, Any] = {}
    for name, value in with_sizes(overrides).items():
        for field in reversed(name.split(".")):
            value = {field: value}
        nested = merged_overrides(nested, value)
    return nested


def with_sizes(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`{"image_size": "16x32"}` -> `{"image_size": [16, 32]}`, in nested fields too."""
    parsed = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            value = with_sizes(value)
        elif isinstance(value, str) and name.split(".")[-1] == "image_size":
            value = parse_image_size(value, name)
        parsed[name] = value
    return parsed


def merged_overrides(fields: Mapping[str, Any], changes: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Overrides merged with more overrides, which win.

    Raises:
        ValueError: If a field is set both to a value and by its own fields.
    """
    merged = dict(fields)
    for name, value in changes.items():
        if name in merged and isinstance(merged[name], dict) != isinstance(value, dict):
            part = next(iter(value if isinstance(value, dict) else merged[name]), "...")
            full = parent + name
            raise ValueError(f"config overrides set both {full} and its field {full}.{part}: give only one of them")
        if name in merged and isinstance(value, dict):
            merged[name] = merged_overrides(merged[name], value, f"{parent}{name}.")
        else:
            merged[name] = value
    return merged


def merged_fields(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields with some changed; a nested config keeps its other fields."""
    merged = dict(fields)
    for name, value in changes.items():
        are_nested = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merged_fields(merged[name], value) if are_nested else value
    return merged


def overrides_as_text(overrides: str | Mapping[str, Any]) -> str:
    """Overrides as the command takes them."""
    if isinstance(overrides, str):
        return overrides
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in overrides.items()}
    return ",".join(f"{name}={value}" for name, value in values.items())
