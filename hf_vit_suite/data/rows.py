"""Rows that are decoded when they are read; one that can't be decoded gives way to the next that can."""

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset, IterableDataset

from .augmentation import RowTransform, seeded
from .decoding import ImageDecodingError, decode_image, image_name

logger = logging.getLogger(__name__)

MOST_NAMED = 5
# cross_entropy and transformers' losses ignore it.
NO_LABEL = -100


def find_problem(image: Any) -> str:
    """Returns why an image can't be decoded, or an empty text."""
    try:
        decode_image(image)
    except ImageDecodingError as error:
        return str(error)
    return ""


def first_named(lines: Sequence[str]) -> str:
    """The first lines in one, for messages."""
    return "; ".join(lines[:MOST_NAMED]) + ("; ..." if len(lines) > MOST_NAMED else "")


def warn_of_unreadable(lines: Sequence[str]) -> None:
    """Logs the number of unreadable images, and names the first."""
    if lines:
        logger.warning("skipped %d unreadable images: %s", len(lines), first_named(lines))


def rows_of(columns: dict[str, list]) -> Iterator[dict]:
    """The rows of a batch of columns."""
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def transform_row(transform: RowTransform, row: dict) -> dict:
    """Applies a transform of batches to one row."""
    (made,) = rows_of(transform({name: [value] for name, value in row.items()}))
    return made


class ReadableRows(torch.utils.data.Dataset):
    """Transformed rows of a split, decoded when they are read.

    A row that can't be decoded is replaced by the next readable one and remembered, also across worker processes.

    Args:
        rows: Rows with the columns that the transform reads, including `image` (undecoded).
        transform: Transform that decodes.
        strict: Raise an error on an unreadable image.
        name: Name of the split, for messages.
    """

    def __init__(self, rows: Dataset, transform: RowTransform, strict: bool = False, name: str = "train"):
        self.rows = rows.with_format(None)
        self.transform = transform
        self.strict = strict
        self.name = name
        self.unreadable = torch.zeros(len(rows), dtype=torch.bool).share_memory_()

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        self.unreadable.share_memory_()  # a copied or unpickled tensor is not in shared memory

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        """Returns a transformed row."""
        index = range(len(self))[index]  # also stops an iteration, by an IndexError
        return self.read(index, self.rows[index])

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Returns transformed rows; a DataLoader asks for a batch at once."""
        return [self.read(index, row) for index, row in zip(indices, rows_of(self.rows[indices]), strict=True)]

    def read(self, index: int, row: dict) -> dict:
        """Returns a row transformed, or the next readable one in its place.

        Raises:
            ImageDecodingError: With `strict`, if the row is unreadable.
            ValueError: If more than half of all rows are unreadable.
        """
        if not self.unreadable[index]:
            try:
                return self.transformed(index, row)
            except ImageDecodingError as error:
                self.remember(index, error)
        for other in (number % len(self) for number in range(index + 1, index + len(self))):
            if not self.unreadable[other]:
                try:
                    return self.replacement(self.transformed(index, self.rows[other]))
                except ImageDecodingError as error:
                    self.remember(other, error)
        raise ValueError(f"no image of the {self.name} split is readable")

    def remember(self, index: int, error: ImageDecodingError) -> None:
        """Marks a row as unreadable."""
        if self.strict:
            raise error
        self.unreadable[index] = True
        number = int(self.unreadable.count_nonzero())
        if number <= MOST_NAMED:  # a run may take days, and a plain Trainer names none at its end
            logger.warning("the next readable image takes the place of one: %s", error)
        if 2 * number > len(self):
            raise ValueError(
                f"more than half of the images of the {self.name} split are unreadable: {number} of {len(self)} so "
                f"far, such as {error}"
            )

    def transformed(self, index: int, row: dict) -> dict:
        """Applies the transform to one row."""
        return transform_row(self.transform, row)

    def replacement(self, row: dict) -> dict:
        """What takes the place of an unreadable row in a batch: as it is, in training."""
        return row

    def problems(self, unreadable: torch.Tensor | None = None) -> list[str]:
        """Returns a line for each row that could not be decoded.

        Args:
            unreadable: Mask of the unreadable rows `[rows]`, such as one reduced over all processes; default this
                process's own.
        """
        marked = self.unreadable if unreadable is None else unreadable
        lines = []
        for index in marked.nonzero().flatten().tolist():
            image = self.rows[index]["image"]
            problem = find_problem(image) or f"{image_name(image)} could not be read"
            lines.append(f"{problem} ({self.name} row {index})")
        return lines


class EvaluationRows(ReadableRows):
    """Transformed rows of which each counts once: what replaces an unreadable one has no label, so that metrics can
    leave it out (see `has_label`)."""

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        if self.unreadable[indices].any():
            return super().__getitems__(indices)
        try:
            return list(rows_of(self.transform(self.rows[indices])))
        except ImageDecodingError:
            return super().__getitems__(indices)

    def replacement(self, row: dict) -> dict:
        if "labels" not in row:
            return row
        labels = row["labels"]
        return row | {"labels": [math.nan] * len(labels) if isinstance(labels, list) else NO_LABEL}


def has_label(labels: torch.Tensor) -> torch.Tensor:
    """Which rows of `labels`, `[rows]` or `[rows, labels]`, were readable: `[rows]`."""
    return labels != NO_LABEL if labels.ndim == 1 else ~labels.isnan().any(dim=1)


class AugmentedImages(ReadableRows):
    """Training rows whose random augmentation depends only on the seed, the epoch and the row.

    The augmentation is therefore the same for any number of worker processes and in a resumed run. The epoch is stored
    in shared memory, because persistent workers keep the copy of the rows that they started with.

    The transformers `Trainer` sets the epoch only in some setups (one process, not resumed); pass it
    `callbacks=[AugmentationEpoch()]` to cover all setups.

    Args:
        split: Rows with the columns that the transform reads.
        transform: Transform that decodes and augments.
        seed: Random seed of the run.
        strict: Raise an error on an unreadable image; else the next readable one takes its place.
    """

    def __init__(self, split: Dataset, transform: RowTransform, seed: int, strict: bool = False):
        super().__init__(split, transform, strict)
        self.seed = seed
        self.shared_epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.shared_epoch.share_memory_()

    @property
    def epoch(self) -> int:
        """Current epoch, counted from 0."""
        return int(self.shared_epoch)

    def set_epoch(self, epoch: int) -> None:
        """Selects the augmentations of an epoch, counted from 0; call it between two passes over the rows."""
        self.shared_epoch.fill_(epoch)

    def transformed(self, index: int, row: dict) -> dict:
        with seeded(self.seed, self.epoch, index):
            return super().transformed(index, row)


class SkipUnreadable:
    """A transform of a batch of streamed rows that leaves out unreadable ones, with a warning each.

    Args:
        transform: Transform that decodes.
        strict: Raise an error on an unreadable image.
    """

    def __init__(self, transform: RowTransform, strict: bool = False):
        self.transform = transform
        self.strict = strict

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        found: dict[str, list] = {}
        for row in rows_of(rows):
            for name, value in (self.read(row) or {}).items():
                found.setdefault(name, []).append(value)
        return found

    def read(self, row: dict) -> dict | None:
        """Returns a row transformed, or None if it is unreadable."""
        try:
            return transform_row(self.transform, row)
        except ImageDecodingError as error:
            if self.strict:
                raise
            logger.warning("skipped: %s", error)
            return None


def apply_transform(
    split: Dataset | IterableDataset, transform: RowTransform, strict: bool = False, name: str = "test"
) -> EvaluationRows | IterableDataset:
    """Applies a transform lazily, when rows are read.

    Args:
        split: Rows.
        transform: Transform that decodes.
        strict: Raise an error on an unreadable image.
        name: Name of the split, for messages.
    """
    if not isinstance(split, IterableDataset):
        return EvaluationRows(split, transform, strict, name)
    read = [column for column in transform.columns if column in (split.column_names or transform.columns)]
    return split.map(SkipUnreadable(transform, strict), batched=True, batch_size=16, remove_columns=read)
