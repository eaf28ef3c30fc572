"""Says in one line what was understood of a source, and names what was not read."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset, IterableDataset

from .layout import SPLIT_NAMES, counted

logger = logging.getLogger(__name__)

# Files of a reason that the line names one by one; of more it gives the number.
MOST_IN_LINE = 3
MOST_IN_REPORT = 100


@dataclass(frozen=True)
class Reading:
    """What was understood of a source.

    Args:
        summary: One line: classes, images by split, layout, and what is ignored.
        ignored: Every file that is not read, by reason.
    """

    summary: str = ""
    ignored: dict[str, list[str]] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """What metrics.json holds: the line, and for each reason the number of files and the first names."""
        return {
            "summary": self.summary,
            "ignored": {
                reason: {"files": len(names), "first": names[:MOST_IN_REPORT]}
                for reason, names in self.ignored.items()
            },
        }


def describe_reading(
    source: str,
    splits: Mapping[str, Dataset | IterableDataset],
    layout: str,
    ignored: Mapping[str, list[str]],
    what: str = "",
) -> Reading:
    """Describes a source in one line and logs it; of several processes only the first logs.

    Args:
        source: Name of the data set.
        splits: Its splits, as the source has them.
        layout: How the source was understood.
        ignored: Files that are not read, by reason.
        what: What comes first, such as `3 classes`.
    """
    numbers = [
        f"{len(splits[split]):,} {split}"
        for split in SPLIT_NAMES
        if split in splits and hasattr(splits[split], "__len__")
    ]
    images = f"{joined(numbers)} image{'s' * (numbers != ['1 train'])}" if numbers else "streamed images"
    line = f"{source}: {f'{what}, ' if what else ''}{images} in {layout}"
    notes = [note(reason, names) for reason, names in sorted(ignored.items()) if names]
    summary = line + (f"; ignored: {', '.join(notes)}" if notes else "")
    if os.environ.get("RANK", "0") == "0":
        logger.warning("%s", summary)
    return Reading(summary, {reason: list(names) for reason, names in ignored.items() if names})


def joined(parts: list[str]) -> str:
    """Parts with commas between and `and` before the last."""
    return " and ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])


def note(reason: str, names: list[str]) -> str:
    """The files of a reason: a few by name, more by number."""
    if len(names) <= MOST_IN_LINE:
        return f"{', '.join(one_line(name) for name in names)} ({reason})"
    return f"{counted(len(names), 'file')} such as {one_line(names[0])} ({reason})"


def one_line(name: str) -> str:
    """A file name without line breaks and control characters."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in name)
