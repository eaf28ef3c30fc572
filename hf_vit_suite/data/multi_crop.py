"""Multi-crop augmentation for DINO, and block-wise patch masks."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from .augmentation import input_size, interpolation
from .batch_augmentation import augment, cut, draw_boxes, draw_parameters
from .decoding import decode_image

# The paper blurs with sigma up to 2 pixels at a side of 224; sigma is scaled by the image size.
BLUR_SIGMA, BLUR_SIDE = (0.1, 2.0), 224
# iBOT's masks as in DINOv2: half of the crops, 10% to 50% of their patches, in blocks of at least four patches.
MASKED_CROPS, MASKED_SHARE = 0.5, (0.1, 0.5)
SMALLEST_BLOCK, BLOCK_ASPECT, BLOCK_TRIES = 4, 0.3, 10


@dataclass(frozen=True)
class CropAugmentation:
    """Draws and augments crops of one size (Caron et al. 2021, arXiv 2104.14294, section 3.2, which follows BYOL).

    Args:
        size: (height, width) of a crop in pixels.
        scale: Smallest and largest fraction of the image's area.
        flip: Probability of a horizontal flip.
        blur: Probability of a Gaussian blur, for each crop.
        solarize: Probability of solarisation (inverting bright pixels), for each crop.
        sigma: Smallest and largest standard deviation of the blur in pixels.
        interpolation: How to resize.
        mean: Subtracted from each channel of pixels from 0 to 1.
        std: Divides each channel.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    flip: float
    blur: tuple[float, ...]
    solarize: tuple[float, ...]
    sigma: tuple[float, float]
    interpolation: InterpolationMode
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Tensor) -> Tensor:
        """8-bit image `[3, height, width]` -> crops `[crops, 3, height, width]`, normalised."""
        boxes = draw_boxes(tuple(image.shape[-2:]), len(self.blur), self.scale)
        crops = augment(
            cut(image, boxes, self.size, self.interpolation),
            draw_parameters(self.flip, self.blur, self.solarize, self.sigma),
        )
        shape = (1, -1, 1, 1)
        return crops.sub_(torch.tensor(self.mean).view(shape)).div_(torch.tensor(self.std).view(shape))


@dataclass(frozen=True)
class MultiCropTransform:
    """Decodes images and draws two global and several local crops of each.

    Args:
        global_crops: Draws the global crops.
        local_crops: Draws the local crops; None for none.
        patch_size: Side of a patch in pixels; if given, block-wise masks of the global crops are drawn too.
    """

    global_crops: CropAugmentation
    local_crops: CropAugmentation | None
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
        made = [self.crops(v2.functional.to_image(decode_image(image))) for image in rows["image"]]
        return {name: [row[name] for row in made] for name in made[0]}

    def crops(self, pixels: Tensor) -> dict[str, Tensor]:
        """Draws the crops and masks of one 8-bit image `[3, height, width]`."""
        row = {"pixel_values": self.global_crops(pixels)}
        if self.local_crops is not None:
            row["local_pixel_values"] = self.local_crops(pixels)
        if self.patch_size is not None:
            height, width = row["pixel_values"].shape[-2:]
            grid = (height // self.patch_size, width // self.patch_size)
            row["bool_masked_pos"] = torch.stack([random_mask(grid) for _ in row["pixel_values"]])
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

    size = input_size(image_processor)
    if isinstance(local_size, int):
        local_size = (local_size, local_size)
    normalises = getattr(image_processor, "do_normalize", False)
    shared = {
        "flip": horizontal_flip,
        "sigma": tuple(value * max(size) / BLUR_SIDE for value in BLUR_SIGMA),
        "interpolation": interpolation(image_processor),
        "mean": tuple(image_processor.image_mean) if normalises else (0.0,),
        "std": tuple(image_processor.image_std) if normalises else (1.0,),
    }
    local_blur, none = (0.5,) * num_local, (0.0,) * num_local
    local_crops = CropAugmentation(local_size, (local_scale, global_scale), blur=local_blur, solarize=none, **shared)
    return MultiCropTransform(
        CropAugmentation(size, (global_scale, 1.0), blur=(1.0, 0.1), solarize=(0.0, 0.2), **shared),
        local_crops if num_local else None,
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
