"""Output that appears whole: files, folders, figures, and what a call of the Python API returns."""

import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a command that draws nothing starts without matplotlib
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# How matplotlib warns of a character that no font has; it draws a box in its place.
MISSING_GLYPH = re.compile(r"Glyph (\d+) .* missing from font", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """What `finetune`, `pretrain` and `evaluate` return.

    Args:
        model: The model, in evaluation mode, on the device that it was trained or measured on.
        processor: Its image processor; CLIP's processor also holds the tokenizer.
        metrics: The measured metrics by name, or by split and name.
        output_dir: Folder of the results.
        checkpoint: Folder or Hub name of the model; after training `output_dir`.
        report: What metrics.json holds: the metrics, counts of images and how they were measured.
        summary: The metrics in one line, as the command prints them.
    """

    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    metrics: dict
    output_dir: Path
    checkpoint: str
    report: dict = field(repr=False)
    summary: str


@contextmanager
def staged_folder(destination: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder whose files move into `destination` once the block ends without an error.

    Files of the same name are replaced, others stay. After an error `destination` is as it was.
    """
    destination = Path(destination)
    existed = destination.exists()
    destination.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staged-", dir=destination))
    try:
        yield staging
        for path in sorted(staging.iterdir()):
            os.replace(path, destination / path.name)
    finally:
        shutil.rmtree(staging)
        if not existed and not any(destination.iterdir()):
            destination.rmdir()


@contextmanager
def staged_file(destination: str | os.PathLike) -> Iterator[Path]:
    """A temporary path of the same suffix that becomes `destination` once the block ends without an error."""
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staged-", dir=destination.parent))
    try:
        yield staging / destination.name
        os.replace(staging / destination.name, destination)
    finally:
        shutil.rmtree(staging)


@contextmanager
def failure_is_a_warning(problem: str) -> Iterator[None]:
    """Logs an error of the block as a warning, after what could not be done."""
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s: %s", problem, type(error).__name__, " ".join(str(error).split()))


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Logs, once, the characters of a figure drawn in the block that no font has; that warning is never an error.

    Args:
        name: Of the figure, for the log.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    for warning in caught:
        if found := MISSING_GLYPH.match(str(warning.message)):
            missing[chr(int(found.group(1)))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        logger.warning(
            "%s: no font of matplotlib has %s, shown as boxes: name an installed font with them first in "
            "matplotlib.rcParams['font.family']",
            name,
            " ".join(missing),
        )


def write_figures(folder: Path, figures: "Mapping[str, Callable[[], Figure]]", dpi: int = 120) -> list[str]:
    """Draws figures into a folder; one that fails is logged as a warning, and an older file of its name is removed.

    Args:
        folder: Where the files go.
        figures: Draws each figure, by file name.
        dpi: Resolution in pixels per inch.

    Returns:
        Names of the written files.
    """
    written = []
    for name, draw in figures.items():
        (folder / name).unlink(missing_ok=True)
        with (
            failure_is_a_warning(f"{name} could not be drawn and is left out"),
            staged_file(folder / name) as path,
            drawing(name),
        ):
            draw().savefig(path, dpi=dpi)
        if (folder / name).exists():
            written.append(name)
    return written
