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

# Undecoded rows in the shuffle buffer: rows closer together than this in the source are mixed.
SHUFFLE_BUFFER = 1000


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

    Each DataLoader worker reads a subset of the source's files (or shards).

    Args:
        rows: Rows with the columns that the transform reads, including `image` (undecoded).
        transform: Transform that decodes and augments.
        seed: Random seed of the run.
        rank: Index of the part that this process reads.
        world_size: Number of parts.
    """

    def __init__(self, rows: IterableDataset, transform: RowTransform, seed: int, rank: int = 0, world_size: int = 1):
        self.rows = rows
        self.transform = transform
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def part(self, rank: int, world_size: int) -> "AugmentedStream":
        """Returns the rows of one process in a distributed run; the parts are disjoint."""
        return AugmentedStream(self.rows, self.transform, self.seed, rank, world_size)

    def __iter__(self) -> Iterator[dict]:
        for epoch in count():
            is_empty = True
            for row in self.shuffled(epoch):
                is_empty = False
                with seeded(self.seed, epoch, image_number(row["image"])):
                    augmented = self.transform({name: [value] for name, value in row.items()})
                yield {name: values[0] for name, values in augmented.items()}
            if is_empty:  # more workers than shards: this worker gets no rows
                return

    def shuffled(self, epoch: int) -> IterableDataset:
        """Returns this process's rows in the order of pass `epoch`, counted from 0."""
        # Shuffle explicitly: workers share the epoch that datasets stores, but may be at different passes.
        generator = np.random.default_rng([self.seed % 2**64, epoch])
        shuffled = self.rows.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER)
        return split_dataset_by_node(shuffled, self.rank, self.world_size)
