"""The layouts, one file each; a new one is a new file and its name here."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names alone are read by --help, which is to be quick
    from ..layout import Layout

# In the order in which a source is asked for: those with marks of their own first, bare weights last.
MODULES = {
    "google-jax": "google_jax",
    "transformers": "transformers",
    "transformers-v5": "transformers_v5",
    "openai-clip": "openai_clip",
    "open-clip": "open_clip",
    "mae": "mae",
    "deit": "deit",
    "dinov2": "dinov2",
    "dino": "dino",
    "timm": "timm",
}


def get_layout(name: str) -> "Layout":
    """A layout by its name.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in MODULES:
        raise ValueError(f"no layout is named {name!r}: there are {', '.join(MODULES)}")
    return importlib.import_module(f".{MODULES[name]}", __name__).LAYOUT


def all_layouts() -> "list[Layout]":
    """Every layout."""
    return [get_layout(name) for name in MODULES]
