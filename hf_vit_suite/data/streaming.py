"""Training rows that are read while they are used: shuffled, augmented, and shared out among processes and workers."""

import zlib
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import PurePosixPath

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node

from .augmentation import RowTransform, seeded

# Rows that wait, undecoded, for their turn: what lies closer together in the source is mixed.
SHUFFLE_BUFFER = 1000


def image_number(image: Mapping | None) -> int:
    """A number of 32 bits that an image keeps wherever and by whomever it is read.

    An index would not do: workers and shuffling number the rows of a stream anew.
    """
    image = image or {}
    if image.get("bytes") is not None:
        return zlib.crc32(image["bytes"])
    path = PurePosixPath((image.get("path") or "").split("::")[0])
    return zlib.crc32("/".join(path.parts[-2:]).encode())  # class folder and file, wherever the data set lies


class AugmentedStream(torch.utils.data.IterableDataset):
    """The rows of a stream again and again without an end, each pass shuffled and augmented anew.

    The order of a pass follows from the seed, the pass and the number of processes and workers, and augmentation from
    the seed, the pass and the image. As there is no end, no process waits for another that has run out of rows, and a
    resumed run skips to where it was, in whichever pass.

    Worker processes of a DataLoader take a part of the source's files (or shards) each.

    Args:
        rows: With the columns that the transform reads, of which one is `image`, undecoded.
        transform: Decodes and augments.
        seed: Of the whole run.
        rank: Which part of the rows this process reads.
        world_size: How many parts there are.
    """

    def __init__(self, rows: IterableDataset, transform: RowTransform, seed: int, rank: int = 0, world_size: int = 1):
        self.rows = rows
        self.transform = transform
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def part(self, rank: int, world_size: int) -> "AugmentedStream":
        """The rows of one process in a distributed run; the parts are disjoint."""
        return AugmentedStream(self.rows, self.transform, self.seed, rank, world_size)

    def __iter__(self) -> Iterator[dict]:
        for epoch in count():
            is_empty = True
            for row in self.shuffled(epoch):
                is_empty = False
                with seeded(self.seed, epoch, image_number(row["image"])):
                    augmented = self.transform({name: [value] for name, value in row.items()})
                yield {name: values[0] for name, values in augmented.items()}
            if is_empty:  # a worker beyond the source's shards: there is nothing to come
                return

    def shuffled(self, epoch: int) -> IterableDataset:
        """This process's rows in the order of a pass, numbered from 0."""
        # A stream of its own: the epoch that datasets keeps is shared by workers, which may be at different passes.
        generator = np.random.default_rng([self.seed % 2**64, epoch])
        shuffled = self.rows.shuffle(generator=generator, buffer_size=SHUFFLE_BUFFER)
        return split_dataset_by_node(shuffled, self.rank, self.world_size)
