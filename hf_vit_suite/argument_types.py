"""Types and defaults of command-line arguments, which need no heavy import."""

import argparse

# The paper's prompt for a label (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).
DEFAULT_TEMPLATE = "a photo of a {}."


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number
