"""`hf-vit-suite finetune`."""

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Fine-tunes a classifier."""
    from .training import run_recipe  # the options of transformers take seconds to import

    return run_recipe("finetune", arguments)
