"""What is wanted of a source, and what opening it gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset, IterableDataset

from .columns import Kind
from .layout import OTHER_SPLIT, Needs


@dataclass(frozen=True)
class Request:
    """What is wanted of a source.

    Args:
        source: Its name, for errors.
        needs: Required annotation: labels, captions or None.
        streaming: Read rows on demand.
        layout: One of `layout.LAYOUTS`, if the user chose it.
        split_names: The source's name of a split by ours, if the user chose them.
        image_column: Column of the images.
        value_column: Column of the labels or captions.
        problem_type: Of the labels, if the user chose it.
    """

    source: str
    needs: Needs = "labels"
    streaming: bool = False
    layout: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    image_column: str | None = None
    value_column: str | None = None
    problem_type: str | None = None

    @property
    def kind(self) -> Kind:
        """What the values are."""
        return "text" if self.needs == "captions" else "label"


@dataclass
class Opened:
    """An open source.

    Args:
        splits: Rows of `image` (undecoded) and, if needed, `label` or `text`.
        layout: How the source was understood, in words.
        ignored: Files that are not read, by reason.
        files: Files by split, if the source is a folder: images, or what holds many.
        undescribed: Images to which no table gives a label or caption.
        columns: The label columns, if there are several.
    """

    splits: dict[str, Dataset | IterableDataset]
    layout: str
    ignored: dict[str, list[str]] = field(default_factory=dict)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    undescribed: list[str] = field(default_factory=list)
    columns: list[str] | None = None

    def only(self, split: str) -> dict[str, Dataset | IterableDataset]:
        """One split alone; notes the files of the others as not read."""
        others = [name for other, names in self.files.items() if other != split for name in names]
        if others:
            self.ignored.setdefault(OTHER_SPLIT, []).extend(others)
        return {split: self.splits[split]}


def cause_of(error: BaseException) -> str:
    """Returns the cause of an error of `datasets` in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())
