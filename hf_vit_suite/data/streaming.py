"""Streams training rows: shuffled, augmented, and split across processes and workers."""

import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import PurePosixPath

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from .augmentation import RowTransform, seeded
from .rows import SkipUnreadable

# Undecoded rows in the shuffle buffer: rows closer together than this in the source are mixed.
SHUFFLE_BUFFER = 1000
# Rows of a pass that a worker reads before it stops because most are unreadable.
JUDGED_AFTER = 1000


def image_number(image: Mapping | None) -> int:
    """Hashes an image to 32 bits, independent of the process that reads it and of the data set's location.

    A row index is not stable: workers and shuffling renumber the rows of a stream.
    """
    image = image or {}
    if image.get("bytes") is not None:
        return zlib.crc32(image["bytes"])
    path = PurePosixPath((image.get("path") or "").split("::")[0])
    return zlib.crc32("/".join(path.parts[-2:]).encode())  # class folder and file name only


class AugmentedStream(torch.utils.data.IterableDataset):
    """Repeats a stream's rows indefinitely; each pass is shuffled and augmented differently.

    The order of a pass depends on the seed, the pass and the number of processes and workers; the augmentation depends
    on the seed, the pass and the image. Because the stream never ends, no process waits for another that has run out
    of rows, and a resumed run skips to its position in any pass.

    Each DataLoader worker reads a subset of the source's files (or shards). Unreadable rows are left out, with a
    warning each.

    Args:
        rows: Rows with the columns that the transform reads, including `image` (undecoded).
        transform: Transform that decodes and augments.
        seed: Random seed of the run.
        rank: Index of the part that this process reads.
        world_size: Number of parts.
        strict: Raise an error on an unreadable image.
    """

    def __init__(
        self,
        rows: IterableDataset,
        transform: RowTransform,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        strict: bool = False,
    ):
        self.rows = rows
        self.reader = SkipUnreadable(transform, strict)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def part(self, rank: int, world_size: int) -> "AugmentedStream":
        """Returns the rows of one process in a distributed run; the parts are disjoint."""
        return AugmentedStream(self.rows, self.reader.transform, self.seed, rank, world_size, self.reader.strict)

    def __iter__(self) -> Iterator[dict]:
        for epoch in count():
            rows = lost = 0
            for row in self.shuffled(epoch):
                rows += 1
                with seeded(self.seed, epoch, image_number(row["image"])):
                    augmented = self.reader.read(row)
                if augmented is not None:
                    yield augmented
                    continue
                lost += 1
                if rows >= JUDGED_AFTER:
                    refuse_mostly_unreadable(lost, rows)
            if not rows:  # more workers than shards: this worker gets no rows
                return
            refuse_mostly_unreadable(lost, rows)

    def shuffled(self, epoch: int) -> IterableDataset:
        """Returns this process's rows in the order of pass `epoch`, counted from 0."""
        # Shuffle explicitly: workers share the epoch that datasets stores, but may be at different passes.
        generator = np.random.default_rng([self.seed % 2**64, epoch])
        shuffled = self.rows.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER)
        return split_dataset_by_node(shuffled, self.rank, self.world_size)


def refuse_mostly_unreadable(lost: int, rows: int) -> None:
    """Raises an error if more than half of the rows were unreadable."""
    if 2 * lost > rows:
        raise ValueError(f"more than half of the streamed images are unreadable: {lost} of {rows} so far")
