"""Transforms agree with the image processor, and augmentation does what it says."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, DeiTImageProcessor, ViTImageProcessor

from hf_vit_suite.data import (
    AugmentedImages,
    ImageTransform,
    apply_transform,
    evaluation_transform,
    input_size,
    load_image_dataset,
    training_transform,
)

PROCESSORS = {
    "vit": ViTImageProcessor(size={"height": 48, "width": 64}, resample=3),
    "bit": BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}),
    "deit": DeiTImageProcessor(size={"height": 64, "width": 64}, crop_size={"height": 48, "width": 48}),
}
every_processor = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)


@pytest.fixture
def image() -> Image.Image:
    """A picture with structure, wider than high."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))


@every_processor
def test_evaluation_is_the_image_processor(processor, image: Image.Image):
    expected = processor(image, return_tensors="pt").pixel_values[0]
    assert torch.equal(evaluation_transform(processor)(image), expected)
    assert tuple(expected.shape[-2:]) == input_size(processor)


@every_processor
def test_training_without_random_parts_equals_evaluation(processor, image: Image.Image):
    plain = training_transform(processor, random_resized_crop=False, horizontal_flip=0.0)
    torch.testing.assert_close(plain(image), evaluation_transform(processor)(image), rtol=1e-5, atol=1e-5)


@every_processor
def test_augmented_image_has_the_processors_size_and_type(processor, image: Image.Image):
    transform = training_transform(processor, rand_augment=9, random_erasing=0.5)
    for _ in range(5):
        pixels = transform(image)
        assert tuple(pixels.shape) == (3, *input_size(processor))
        assert type(pixels) is torch.Tensor
        assert pixels.dtype == torch.float32


def test_normalisation_uses_the_processors_statistics():
    processor = ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    pixels = training_transform(processor)(Image.new("RGB", (20, 20), (51, 102, 204)))
    expected = (torch.tensor([0.2, 0.4, 0.8]) - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.4, 0.5, 0.6])
    torch.testing.assert_close(pixels, expected.view(3, 1, 1).expand(3, 8, 8), atol=1e-5, rtol=0)


def test_flip_mirrors_with_its_probability(image: Image.Image):
    processor = PROCESSORS["vit"]
    always = training_transform(processor, random_resized_crop=False, horizontal_flip=1.0)
    never = training_transform(processor, random_resized_crop=False, horizontal_flip=0.0)
    torch.testing.assert_close(always(image), never(image).flip(-1))


def test_crop_keeps_at_least_the_share_asked_for():
    # A ramp from 0 to 1 across: the range that is left tells the width of the crop.
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    processor = ViTImageProcessor(size={"height": 64, "width": 64}, do_normalize=False)
    transform = training_transform(processor, crop_scale=(0.9, 1.0), horizontal_flip=0.0)
    ranges = [float(pixels.max() - pixels.min()) for pixels in (transform(ramp) for _ in range(20))]
    assert min(ranges) > 0.75
    assert min(ranges) < max(ranges)


def test_random_erasing_erases(image: Image.Image):
    processor = PROCESSORS["vit"]
    options = {"random_resized_crop": False, "horizontal_flip": 0.0}
    erased = training_transform(processor, random_erasing=1.0, **options)(image)
    changed = (erased != training_transform(processor, **options)(image)).any(dim=0)
    rows, columns = changed.any(dim=1).sum(), changed.any(dim=0).sum()
    assert 0 < changed.float().mean() < 0.5
    assert changed.sum() > 0.9 * rows * columns  # one rectangle


def test_transforms_travel_to_worker_processes(image: Image.Image):
    for transform in (training_transform(PROCESSORS["vit"], rand_augment=9), evaluation_transform(PROCESSORS["vit"])):
        copied = pickle.loads(pickle.dumps(ImageTransform(transform)))
        assert copied({"image": [image], "label": [3]})["labels"] == [3]


def test_rows_are_decoded_and_transformed_when_read():
    split = load_image_dataset("digits").splits["test"]
    processor = ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)
    expected = [row["pixel_values"] for row in apply_transform(split, ImageTransform(evaluation_transform(processor)))]
    streamed = apply_transform(split.to_iterable_dataset(), ImageTransform(evaluation_transform(processor)))
    for found, pixels in zip(streamed, expected, strict=True):
        assert torch.equal(torch.as_tensor(found["pixel_values"]), pixels)


def test_augmentation_depends_on_seed_epoch_and_row_alone():
    split = load_image_dataset("digits").splits["test"].select(range(12))
    transform = ImageTransform(training_transform(ViTImageProcessor(size={"height": 8, "width": 8}), rand_augment=9))

    def epoch(number: int, seed: int = 1, workers: int = 0) -> torch.Tensor:
        rows = AugmentedImages(split, transform, seed)
        rows.set_epoch(number)
        loader = torch.utils.data.DataLoader(rows, batch_size=4, num_workers=workers)
        return torch.cat([batch["pixel_values"] for batch in loader])

    state = torch.get_rng_state()
    first = epoch(0)
    assert torch.equal(epoch(0), first)
    assert torch.equal(epoch(0, workers=2), first)
    assert not torch.equal(epoch(1), first)
    assert not torch.equal(epoch(0, seed=2), first)
    torch.set_rng_state(state)
    AugmentedImages(split, transform, 1)[0]
    assert torch.equal(torch.get_rng_state(), state)


# Workers of the other start methods take seconds to start, and those that don't persist get the epoch when they do.
@pytest.mark.parametrize(
    ("method", "workers", "persistent"),
    [
        (None, 0, False),
        *(("fork", workers, persistent) for workers in (1, 2) for persistent in (False, True)),
        *((method, 1, True) for method in ("spawn", "forkserver")),
    ],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_every_epoch_has_its_own_augmentation_in_every_kind_of_worker(method, workers: int, persistent: bool):
    split = load_image_dataset("digits").splits["test"].select(range(12))
    transform = ImageTransform(training_transform(ViTImageProcessor(size={"height": 8, "width": 8}), rand_augment=9))
    reference = AugmentedImages(split, transform, 1)
    rows = pickle.loads(pickle.dumps(reference))  # the copy shares memory with its own workers alone
    loader = torch.utils.data.DataLoader(
        rows, batch_size=2, num_workers=workers, persistent_workers=persistent, multiprocessing_context=method
    )
    for epoch in (0, 1, 5):
        rows.set_epoch(epoch)
        found = torch.cat([batch["pixel_values"] for batch in loader])
        reference.set_epoch(epoch)
        torch.testing.assert_close(found, torch.stack([reference[index]["pixel_values"] for index in range(12)]))
        next(iter(loader))  # prefetched batches of an epoch that is broken off stay in that epoch
