"""Reference weights: import and export. Installs as `hf_vit_suite.conversion`.

A layout in `layouts/` is a table of reversible rules. `rules.py` applies them for import, and inverted for export.
"""

import importlib

_EXPORTS = {
    "convert": "importing",
    "export_reference": "exporting",
    "load": "importing",
    "open_reference": "importing",
}


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


__all__ = [*_EXPORTS]
