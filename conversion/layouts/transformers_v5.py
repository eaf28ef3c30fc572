"""transformers' folders under the names of version 5's modules, which `save_original_format=False` writes."""

from .transformers import layout

LAYOUT = layout("transformers-v5", version=5)
