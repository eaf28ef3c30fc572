"""Figures beside results. Names in them are drawn literally; a figure that fails is logged and the run continues."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from .files import staged_file

logger = logging.getLogger(__name__)

# Text properties of labels, file names and captions: a `$` in them starts no formula.
AS_WRITTEN = {"parse_math": False, "usetex": False}


def write_figures(folder: Path, figures: Mapping[str, Callable[[], Figure]], dpi: int = 120) -> list[str]:
    """Draws figures into a folder; one that fails is logged as a warning, and an older file of its name is removed.

    Args:
        folder: Where they go.
        figures: What draws each, by file name.
        dpi: Pixels an inch.

    Returns:
        The files that were written.
    """
    written = []
    for name, draw in figures.items():
        try:
            with staged_file(folder / name) as path:
                draw().savefig(path, dpi=dpi)
        except Exception as error:
            (folder / name).unlink(missing_ok=True)
            reason = " ".join(str(error).split())
            logger.warning("%s could not be drawn and is left out: %s: %s", name, type(error).__name__, reason)
        else:
            written.append(name)
    return written
