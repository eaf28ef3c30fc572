"""Types and defaults of command-line arguments, which need no heavy import."""

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

# The paper's prompt for a label (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).
DEFAULT_TEMPLATE = "a photo of a {}."


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def parse_overrides(text: str | None) -> dict:
    """`"num_hidden_layers=6,pooling=mean"` -> `{"num_hidden_layers": 6, "pooling": "mean"}`.

    A dot leads into a part: `"vision_config.patch_size=8"` -> `{"vision_config": {"patch_size": 8}}`. Values are JSON,
    such as `image_size=[32,64]`, or text.

    Raises:
        ValueError: If a part has no `=`.
    """
    overrides = {}
    for part in re.split(r",(?![^\[{]*[\]}])", text or ""):  # not at the commas of lists
        name, separator, value = part.partition("=")
        if part and not separator:
            raise ValueError(f"--config_overrides takes name=value pairs with commas between, got {part!r}")
        if part:
            try:
                overrides[name.strip()] = json.loads(value)
            except json.JSONDecodeError:
                overrides[name.strip()] = value.strip()
    return nested_fields(overrides)


def nested_fields(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`{"vision_config.patch_size": 8}` -> `{"vision_config": {"patch_size": 8}}`; nested ones stay as they are.

    Raises:
        ValueError: If a name leads into something that is set otherwise.
    """
    nested: dict[str, Any] = {}
    for name, value in overrides.items():
        *parents, last = name.split(".")
        fields = nested
        for parent in parents:
            fields = fields.setdefault(parent, {})
            if not isinstance(fields, dict):
                raise ValueError(f"config overrides set {name} and {parent}, of which it is a part: give one of them")
        fields[last] = merged_fields(fields.get(last, {}), value) if isinstance(value, dict) else value
    return nested


def merged_fields(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Config fields with some changed, those of a part one by one."""
    merged = dict(fields)
    for name, value in changes.items():
        is_part = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merged_fields(merged[name], value) if is_part else value
    return merged
