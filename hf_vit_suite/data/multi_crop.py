"""Multi-crop augmentation for DINO, and block-wise patch masks."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from .augmentation import input_size, interpolation
from .decoding import decode_image

# The paper blurs with sigma up to 2 pixels at a side of 224; sigma is scaled by the image size.
BLUR_SIGMA, BLUR_SIDE, BLUR_KERNEL = (0.1, 2.0), 224, 9
SOLARIZE_THRESHOLD = 128
# iBOT's masks as in DINOv2: half of the crops, 10% to 50% of their patches, in blocks of at least four patches.
MASKED_CROPS, MASKED_SHARE = 0.5, (0.1, 0.5)
SMALLEST_BLOCK, BLOCK_ASPECT, BLOCK_TRIES = 4, 0.3, 10


def crop_transform(
    image_processor,
    size: tuple[int, int],
    scale: tuple[float, float],
    *,
    horizontal_flip: float = 0.5,
    blur: float = 0.0,
    solarize: float = 0.0,
) -> v2.Compose:
    """Builds the augmentation of one crop (Caron et al. 2021, arXiv 2104.14294, section 3.2, which follows BYOL).

    Args:
        image_processor: Source of interpolation, mean and standard deviation; its size scales the blur.
        size: (height, width) of the crop in pixels.
        scale: Smallest and largest fraction of the image's area.
        horizontal_flip: Probability of a horizontal flip.
        blur: Probability of a Gaussian blur.
        solarize: Probability of solarisation (inverting bright pixels).

    Returns:
        Transform of a uint8 image tensor `[channels, height, width]` to a float tensor.
    """
    sigma = [value * max(input_size(image_processor)) / BLUR_SIDE for value in BLUR_SIGMA]
    steps: list[Callable] = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=interpolation(image_processor)),
        v2.RandomHorizontalFlip(horizontal_flip),
        v2.RandomApply([v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)], p=0.8),
        v2.RandomGrayscale(p=0.2),
    ]
    if blur:
        kernel = min(BLUR_KERNEL, 2 * min(size) - 1)  # half of it is padded by reflection, which a side must exceed
        steps.append(v2.RandomApply([v2.GaussianBlur(kernel, sigma)], p=blur))
    if solarize:
        steps.append(v2.RandomSolarize(SOLARIZE_THRESHOLD, p=solarize))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if getattr(image_processor, "do_normalize", False):
        steps.append(v2.Normalize(image_processor.image_mean, image_processor.image_std))
    return v2.Compose([*steps, v2.ToPureTensor()])


@dataclass(frozen=True)
class MultiCropTransform:
    """Decodes images and draws two global and several local crops of each.

    Args:
        global_transforms: One transform per global crop, from a uint8 image tensor to a float tensor.
        local_transform: Transform of the local crops.
        num_local: Number of local crops, 0 for none.
        patch_size: Side of a patch in pixels; if given, block-wise masks of the global crops are drawn too.
    """

    global_transforms: tuple[Callable[[Tensor], Tensor], ...]
    local_transform: Callable[[Tensor], Tensor]
    num_local: int
    patch_size: int | None = None
    columns: ClassVar[tuple[str, ...]] = ("image",)

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """Crops a batch of rows.

        Args:
            rows: `{"image": [...]}`.

        Returns:
            One tensor per row: `pixel_values` `[2, channels, height, width]`; with local crops `local_pixel_values`
            `[local crops, channels, height, width]`; with a patch size `bool_masked_pos` `[2, patches]`.
        """
        made = [self.crops(decode_image(image)) for image in rows["image"]]
        return {name: [row[name] for row in made] for name in made[0]}

    def crops(self, image: Image.Image) -> dict[str, Tensor]:
        """Draws the crops and masks of one image."""
        pixels = v2.functional.to_image(image)
        row = {"pixel_values": torch.stack([transform(pixels) for transform in self.global_transforms])}
        if self.num_local:
            row["local_pixel_values"] = torch.stack([self.local_transform(pixels) for _ in range(self.num_local)])
        if self.patch_size is not None:
            height, width = row["pixel_values"].shape[-2:]
            grid = (height // self.patch_size, width // self.patch_size)
            row["bool_masked_pos"] = torch.stack([random_mask(grid) for _ in self.global_transforms])
        return row


def multi_crop_transform(
    image_processor,
    local_size: int | tuple[int, int],
    num_local: int = 8,
    *,
    local_scale: float = 0.05,
    global_scale: float = 0.4,
    horizontal_flip: float = 0.5,
    patch_size: int | None = None,
) -> MultiCropTransform:
    """Builds the paper's multi-crop: blur with probability 1 and 0.1, solarisation 0 and 0.2 for the global crops.

    Args:
        image_processor: Source of the global crops' size, interpolation, mean and standard deviation.
        local_size: Side, or (height, width), of the local crops in pixels; the paper uses 96 with 224 globally.
        num_local: Number of local crops.
        local_scale: Smallest fraction of the image's area in a local crop.
        global_scale: Largest fraction of the image's area in a local crop, and smallest in a global crop.
        horizontal_flip: Probability of a horizontal flip.
        patch_size: Side of a patch in pixels; if given, block-wise masks of the global crops are drawn too.

    Raises:
        ValueError: Unless 0 < `local_scale` < `global_scale` < 1.
    """
    if not 0 < local_scale < global_scale < 1:
        raise ValueError(
            "crops must have local_crop_scale < global_crop_scale, both above 0 and below 1, got "
            f"{local_scale} and {global_scale}"
        )

    def transform(size: tuple[int, int], scale: tuple[float, float], blur: float, solarize: float) -> v2.Compose:
        return crop_transform(
            image_processor, size, scale, horizontal_flip=horizontal_flip, blur=blur, solarize=solarize
        )

    size = input_size(image_processor)
    if isinstance(local_size, int):
        local_size = (local_size, local_size)
    return MultiCropTransform(
        (transform(size, (global_scale, 1.0), 1.0, 0.0), transform(size, (global_scale, 1.0), 0.1, 0.2)),
        transform(local_size, (local_scale, global_scale), 0.5, 0.0),
        num_local,
        patch_size,
    )


def random_mask(grid: tuple[int, int]) -> Tensor:
    """Draws the mask of one crop, `[rows * columns]`; half of the crops are not masked."""
    share = torch.empty(1).uniform_(*MASKED_SHARE).item() if torch.rand(1) < MASKED_CROPS else 0.0
    return block_mask(grid, int(share * grid[0] * grid[1])).flatten()


def block_mask(grid: tuple[int, int], num_masked: int) -> Tensor:
    """Masks random blocks, at most `num_masked` patches in total (Bao et al. 2021, arXiv 2106.08254, algorithm 1).

    Returns:
        `[rows, columns]`, True where masked.
    """
    mask = torch.zeros(grid, dtype=torch.bool)
    while (left := num_masked - int(mask.sum())) > 0:
        for _ in range(BLOCK_TRIES):
            block = random_block(grid, left)
            if block is not None and 0 < int((~mask[block]).sum()) <= left:
                mask[block] = True
                break
        else:
            break
    return mask


def random_block(grid: tuple[int, int], largest: int) -> tuple[slice, slice] | None:
    """Draws a block of about four to `largest` patches within the grid; None if the drawn block is too large."""
    area, aspect, top, left = torch.rand(4).tolist()
    area = SMALLEST_BLOCK + area * (largest - SMALLEST_BLOCK)
    aspect = math.exp((2 * aspect - 1) * math.log(BLOCK_ASPECT))
    height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    if height >= grid[0] or width >= grid[1]:
        return None
    top, left = int(top * (grid[0] - height + 1)), int(left * (grid[1] - width + 1))
    return slice(top, top + height), slice(left, left + width)
