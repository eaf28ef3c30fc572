"""Figures beside results: names in them are data, and no figure costs what it is drawn from."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from .files import staged_file

logger = logging.getLogger(__name__)

# Properties of a text that is somebody's name for something: `$` starts no formula in it.
AS_WRITTEN = {"parse_math": False, "usetex": False}


def write_figures(folder: Path, figures: Mapping[str, Callable[[], Figure]], dpi: int = 120) -> list[str]:
    """Draws figures into a folder; one that fails is left out, with an older one of its name, and named in a warning.

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
