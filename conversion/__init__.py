"""Reference weights in and out; installed as `hf_vit_suite.conversion`.

A layout in `layouts/` is a table of reversible rules, which `rules.py` reads forward to import and backward to export.
"""

from .convert import convert, load, open_reference
from .export import export_reference

__all__ = ["convert", "export_reference", "load", "open_reference"]
