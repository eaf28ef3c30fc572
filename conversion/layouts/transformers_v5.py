"""transformers' folders under the names that the models of version 5 have, as `save_original_format=False` writes."""

from .transformers import layout

LAYOUT = layout("transformers-v5", version=5)
