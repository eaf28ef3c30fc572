"""The model families, in one flat folder because its files are saved with checkpoints."""

import transformers  # noqa: F401 (registers the families before a module here is partially imported)
