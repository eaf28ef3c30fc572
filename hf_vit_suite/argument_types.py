"""Types and defaults of command-line arguments, which need no heavy import."""

import argparse
import json

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

    A dot leads into a part: `"vision_config.patch_size=8"` -> `{"vision_config": {"patch_size": 8}}`.

    Raises:
        ValueError: If a part has no `=`.
    """
    overrides = {}
    for part in (text or "").split(","):
        name, separator, value = part.partition("=")
        if part and not separator:
            raise ValueError(f"--config_overrides takes name=value pairs with commas between, got {part!r}")
        if part:
            *parents, name = name.strip().split(".")
            fields = overrides
            for parent in parents:
                fields = fields.setdefault(parent, {})
            try:
                fields[name] = json.loads(value)
            except json.JSONDecodeError:
                fields[name] = value.strip()
    return overrides
