"""Streams of training rows: order, passes, parts of processes and workers, augmentation."""

from itertools import islice

import datasets
import pytest
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_vit_suite.data import (
    AugmentedStream,
    ImageTransform,
    collate_images,
    evaluation_transform,
    load_image_dataset,
    training_transform,
)

ROWS = 24
PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)


def stream_of(shards: int) -> IterableDataset:
    """24 images whose label is their number."""
    images = [Image.new("RGB", (12, 12), (10 * number, 0, 0)) for number in range(ROWS)]
    rows = Dataset.from_dict({"image": images, "label": list(range(ROWS))})
    rows = rows.cast_column("image", datasets.Image()).cast_column("image", datasets.Image(decode=False))
    return rows.to_iterable_dataset(shards)


def labels(stream: AugmentedStream, number: int, workers: int = 0) -> list[int]:
    """The first labels that a DataLoader gives."""
    loader = DataLoader(stream, batch_size=4, num_workers=workers, collate_fn=collate_images)
    return [label for batch in islice(loader, number // 4) for label in batch["labels"].tolist()]


def augmented(rows: IterableDataset, seed: int = 1) -> AugmentedStream:
    """The stream that trains."""
    return AugmentedStream(rows, ImageTransform(training_transform(PROCESSOR)), seed)


def test_each_pass_has_every_row_once_in_an_order_of_its_own_that_a_seed_repeats():
    rows = stream_of(3)
    found = labels(augmented(rows), 3 * ROWS)
    passes = [found[start : start + ROWS] for start in range(0, 3 * ROWS, ROWS)]
    assert all(sorted(part) == list(range(ROWS)) for part in passes)
    assert len({tuple(part) for part in [*passes, range(ROWS)]}) == 4
    assert labels(augmented(rows), 3 * ROWS) == found
    assert labels(augmented(rows, seed=2), ROWS) != passes[0]
    assert labels(augmented(rows, seed=-1), ROWS) != passes[0]


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shards", [1, 3, 4])
def test_processes_and_workers_share_the_rows_of_a_pass_out(shards: int, workers: int, world_size: int):
    stream = augmented(stream_of(shards))
    for epoch in (0, 1):
        seen = []
        for rank in range(world_size):
            rows = stream.part(rank, world_size).shuffled(epoch)
            loader = DataLoader(rows, batch_size=2, num_workers=workers, collate_fn=list)
            seen += [row["label"] for batch in loader for row in batch]
        assert sorted(seen) == list(range(ROWS))


def test_augmentation_of_an_image_follows_seed_and_pass_not_order():
    rows = stream_of(3)

    def pixels(stream: AugmentedStream, workers: int = 0) -> dict[int, list[torch.Tensor]]:
        found: dict[int, list[torch.Tensor]] = {}
        loader = DataLoader(stream, batch_size=1, num_workers=workers, collate_fn=collate_images)
        for batch in islice(loader, 2 * ROWS):
            found.setdefault(int(batch["labels"]), []).append(batch["pixel_values"])
        return found

    alone, shared = pixels(augmented(rows)), pixels(augmented(rows), workers=1)
    for label, (first, second) in alone.items():
        assert torch.equal(shared[label][0], first)
        assert torch.equal(shared[label][1], second)
    state = torch.get_rng_state()
    next(iter(augmented(rows)))
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_of_an_image_differs_by_pass_and_seed():
    splits = load_image_dataset("digits", streaming=True).splits
    rows = splits["train"].take(1)  # so that each pass gives the same image
    first, second = (row["pixel_values"] for row in islice(augmented(rows), 2))
    assert not torch.equal(first, second)
    assert not torch.equal(next(iter(augmented(rows, seed=2)))["pixel_values"], first)


def test_data_in_memory_are_streamed_in_shards_and_evaluated_in_order():
    splits = load_image_dataset("digits", streaming=True).splits
    assert splits["train"].num_shards == 64
    transform = ImageTransform(evaluation_transform(PROCESSOR))
    seen = labels(AugmentedStream(splits["test"], transform, 0), 160, workers=2)
    assert len(seen) == 160
    order = [row["label"] for row in splits["test"]]
    assert order == [row["label"] for row in load_image_dataset("digits", streaming=True).splits["test"]]


def test_stream_without_rows_ends():
    assert list(augmented(stream_of(1).filter(lambda row: False))) == []
