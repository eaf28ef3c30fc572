"""Converts decoded images to model input: augmentation for training, the image processor for evaluation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from transformers.image_utils import pil_torch_interpolation_mapping

from .decoding import decode_image

RAND_AUGMENT_OPERATIONS = 2


def input_size(image_processor) -> tuple[int, int]:
    """Returns (height, width) in pixels of an image processor's output."""
    size = image_processor.crop_size if getattr(image_processor, "do_center_crop", None) else image_processor.size
    if size.get("shortest_edge"):
        return size["shortest_edge"], size["shortest_edge"]
    return size["height"], size["width"]


def interpolation(image_processor) -> InterpolationMode:
    """Returns an image processor's resampling as torchvision's `InterpolationMode`."""
    return pil_torch_interpolation_mapping[image_processor.resample]


def training_transform(
    image_processor,
    *,
    random_resized_crop: bool = True,
    crop_scale: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: float = 0.5,
    rand_augment: int = 0,
    random_erasing: float = 0.0,
) -> v2.Compose:
    """Builds the training augmentation; output size and normalisation match the image processor.

    Args:
        image_processor: Source of size, interpolation, mean and standard deviation.
        random_resized_crop: Crop a random area with a random aspect ratio (Szegedy et al. 2014, arXiv 1409.4842); else
            resize and crop like the processor.
        crop_scale: Smallest and largest fraction of the area that a crop keeps.
        horizontal_flip: Probability of a horizontal flip.
        rand_augment: Magnitude of RandAugment (Cubuk et al. 2019, arXiv 1909.13719), 0 (off) to 30; two operations.
        random_erasing: Probability of erasing a rectangle (Zhong et al. 2017, arXiv 1708.04896).

    Returns:
        Transform of a PIL RGB image to a float tensor `[channels, height, width]`.
    """
    size = input_size(image_processor)
    # Convert to a tensor first: image processors resize tensors, and Pillow's resizing differs by a level or two.
    steps: list[Callable] = [v2.ToImage()]
    if random_resized_crop:
        steps.append(v2.RandomResizedCrop(size, scale=crop_scale, interpolation=interpolation(image_processor)))
    else:
        steps += evaluation_geometry(image_processor)
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(horizontal_flip))
    if rand_augment:
        steps.append(v2.RandAugment(RAND_AUGMENT_OPERATIONS, magnitude=rand_augment))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if getattr(image_processor, "do_normalize", False):
        steps.append(v2.Normalize(image_processor.image_mean, image_processor.image_std))
    if random_erasing:
        steps.append(v2.RandomErasing(random_erasing))
    return v2.Compose([*steps, v2.ToPureTensor()])


def evaluation_geometry(image_processor) -> list[Callable]:
    """Builds the image processor's resize and, if it has one, its centre crop."""
    size = image_processor.size
    edge = size.get("shortest_edge") or (size["height"], size["width"])
    steps: list[Callable] = [v2.Resize(edge, interpolation=interpolation(image_processor))]
    if getattr(image_processor, "do_center_crop", None):
        steps.append(v2.CenterCrop(input_size(image_processor)))
    return steps


@dataclass(frozen=True)
class EvaluationTransform:
    """Applies the image processor, so that evaluation input matches `pipeline("image-classification")`.

    Args:
        image_processor: A transformers image processor.
    """

    image_processor: Callable

    def __call__(self, image: Image.Image) -> Tensor:
        """A PIL RGB image -> `[channels, height, width]`."""
        return self.together([image])[0]

    def together(self, images: list[Image.Image]) -> Tensor:
        """PIL RGB images -> `[images, channels, height, width]`; a call for many takes a fraction of many calls."""
        return self.image_processor(images, return_tensors="pt").pixel_values


def evaluation_transform(image_processor) -> EvaluationTransform:
    """Wraps an image processor as a transform of single images."""
    return EvaluationTransform(image_processor)


class RowTransform(Protocol):
    """Transform of a batch of rows to model input; `columns` names the columns that it reads."""

    columns: ClassVar[tuple[str, ...]]

    def __call__(self, rows: dict[str, list]) -> dict[str, list]: ...


@dataclass(frozen=True)
class ImageTransform:
    """Decodes and transforms a batch of rows of `datasets`.

    Args:
        transform: Transform of a PIL RGB image to a tensor `[channels, height, width]`.
    """

    transform: Callable[[Image.Image], Tensor]
    columns: ClassVar[tuple[str, ...]] = ("image", "label")

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """`{"image": [...], "label": [...]}` -> `{"pixel_values": [tensor, ...], "labels": [int, ...]}`.

        Rows without labels give images alone.
        """
        images = [decode_image(image) for image in rows["image"]]
        if isinstance(self.transform, EvaluationTransform):
            made = {"pixel_values": list(self.transform.together(images))}
        else:
            made = {"pixel_values": [self.transform(image) for image in images]}
        return made | ({"labels": rows["label"]} if "label" in rows else {})


@dataclass(frozen=True)
class MaskedImageTransform:
    """Decodes and transforms images for a masked autoencoder, and draws the noise that determines each mask.

    The noise is part of the row, so the mask depends on neither the number of processes nor the training state.

    Args:
        transform: Transform of a PIL RGB image to a tensor `[channels, height, width]`.
        patch_size: Side of a patch in pixels.
    """

    transform: Callable[[Image.Image], Tensor]
    patch_size: int
    columns: ClassVar[tuple[str, ...]] = ("image",)

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """`{"image": [...]}` -> `{"pixel_values": [tensor, ...], "noise": [[patches], ...]}`."""
        pixel_values = [self.transform(decode_image(image)) for image in rows["image"]]
        patches = [image[0].numel() // self.patch_size**2 for image in pixel_values]
        return {"pixel_values": pixel_values, "noise": [torch.rand(number) for number in patches]}


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seeds torch's CPU generator from `entropy` within the block, and restores its state afterwards."""
    # torch accepts negative seeds, modulo 2**64; so does this.
    parts = [part % 2**64 for part in entropy]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.SeedSequence(parts).generate_state(1)[0]))
        yield
