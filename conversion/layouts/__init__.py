"""One module per layout. To add a layout, add a module and list it in `MODULES`."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # --help needs only the names, so importing no layout keeps it fast
    from ..layout import Layout

# In the order of recognition: layouts with distinctive features first, plain encoders last.
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
    """Imports a layout by name.

    Raises:
        ValueError: If no layout has this name.
    """
    if name not in MODULES:
        raise ValueError(f"no layout is named {name!r}: there are {', '.join(MODULES)}")
    return importlib.import_module(f".{MODULES[name]}", __name__).LAYOUT


def all_layouts() -> "list[Layout]":
    """All layouts, in the order of recognition."""
    return [get_layout(name) for name in MODULES]
