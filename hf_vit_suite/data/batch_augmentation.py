"""Augments several crops of one size at once, each with parameters of its own, in few passes over the pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Largest changes of BYOL's jitter, which DINO takes (Grill et al. 2020, arXiv 2006.07733, appendix B).
JITTER = (0.4, 0.4, 0.2, 0.1)
JITTERED, GREY = 0.8, 0.2
# ITU-R BT.601, as Pillow and torchvision.
LUMA = (0.2989, 0.587, 0.114)
SOLARIZE_THRESHOLD = 128 / 255
CROP_TRIES, CROP_RATIO = 10, (3 / 4, 4 / 3)
# Hues, of six, that are opposite to red, green and blue.
COMPLEMENTS = (3.0, 5.0, 1.0)


@dataclass(frozen=True)
class CropParameters:
    """Random parameters of crops, one entry for each.

    Args:
        flip: Whether a crop is mirrored `[crops]`.
        order: Order of brightness, contrast, saturation and hue `[crops, 4]`; 4 for none.
        change: Factors of brightness, contrast and saturation, and the shift of hue in turns `[crops, 4]`.
        grey: Whether a crop is without colour `[crops]`.
        sigma: Standard deviation of the blur in pixels `[crops]`; 0 for none.
        solarize: Whether bright pixels are inverted `[crops]`.
    """

    flip: Tensor
    order: Tensor
    change: Tensor
    grey: Tensor
    sigma: Tensor
    solarize: Tensor


def draw_parameters(
    flip: float, blur: Sequence[float], solarize: Sequence[float], sigma: tuple[float, float]
) -> CropParameters:
    """Draws the parameters of crops from torch's generator.

    Args:
        flip: Probability of a mirrored crop.
        blur: Probability of a blur, for each crop.
        solarize: Probability of a solarisation, for each crop.
        sigma: Smallest and largest standard deviation of the blur in pixels.
    """
    crops = len(blur)
    drawn = torch.rand(crops, 14)
    largest = torch.tensor(JITTER)
    change = 1 + (2 * drawn[:, 0:4] - 1) * largest
    change[:, HUE] -= 1
    order = drawn[:, 4:8].argsort(dim=1)
    return CropParameters(
        flip=drawn[:, 8] < flip,
        order=torch.where(drawn[:, 9:10] < JITTERED, order, 4),
        change=change,
        grey=drawn[:, 10] < GREY,
        sigma=(sigma[0] + (sigma[1] - sigma[0]) * drawn[:, 11]) * (drawn[:, 12] < torch.tensor(blur)),
        solarize=drawn[:, 13] < torch.tensor(solarize),
    )


def draw_boxes(size: tuple[int, int], crops: int, scale: tuple[float, float]) -> list[tuple[int, int, int, int]]:
    """Draws (top, left, height, width) of random crops (Szegedy et al. 2014, arXiv 1409.4842), as torchvision does.

    Args:
        size: (height, width) of the image in pixels.
        crops: Number of crops.
        scale: Smallest and largest fraction of the image's area.
    """
    height, width = size
    low, high = map(math.log, CROP_RATIO)
    boxes = []
    for tries in torch.rand(crops, CROP_TRIES, 4).tolist():
        for share, aspect, down, right in tries:
            area = height * width * (scale[0] + (scale[1] - scale[0]) * share)
            ratio = math.exp(low + (high - low) * aspect)
            tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
            if 0 < tall <= height and 0 < wide <= width:
                boxes.append((int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide))
                break
        else:
            boxes.append(largest_box(height, width))
    return boxes


def largest_box(height: int, width: int) -> tuple[int, int, int, int]:
    """The largest central crop whose aspect is within the range."""
    wide = min(width, round(height * CROP_RATIO[1]))
    tall = min(height, round(width / CROP_RATIO[0]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def cut(
    image: Tensor, boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int], interpolation: InterpolationMode
) -> Tensor:
    """Cuts and resizes crops.

    Args:
        image: 8-bit image `[channels, height, width]`; fast if its channels are last in memory.
        boxes: (top, left, height, width) of each crop.
        size: (height, width) of the result.
        interpolation: How to resize, antialiased but for the nearest pixel.

    Returns:
        8-bit crops `[crops, channels, height, width]`.
    """
    parts = (image[:, top : top + tall, left : left + wide] for top, left, tall, wide in boxes)
    return torch.stack([v2.functional.resize(part, list(size), interpolation) for part in parts])


def augment(crops: Tensor, parameters: CropParameters) -> Tensor:
    """Mirrors, jitters, blurs and solarises crops as torchvision's v2 does floating-point images.

    Args:
        crops: 8-bit RGB crops `[crops, 3, height, width]`.
        parameters: Of each crop.

    Returns:
        Crops of the same shape, float32 from 0 to 1.
    """
    pixels = crops.to(torch.float32, memory_format=torch.contiguous_format).mul_(1 / 255)
    for index in parameters.flip.nonzero().flatten().tolist():
        pixels[index] = pixels[index].flip(-1)
    jitter(pixels, parameters.order, parameters.change)
    for index in parameters.grey.nonzero().flatten().tolist():
        pixels[index] = luma(pixels[index : index + 1])[0]
    if len(blurred := parameters.sigma.nonzero().flatten()):
        pixels[blurred] = blur(pixels[blurred], parameters.sigma[blurred])
    for index in parameters.solarize.nonzero().flatten().tolist():
        part = pixels[index]
        torch.where(part >= SOLARIZE_THRESHOLD, 1 - part, part, out=part)
    return pixels


def jitter(pixels: Tensor, order: Tensor, change: Tensor) -> None:
    """Changes brightness, contrast, saturation and hue of each crop in its order, in place.

    The first three are `factor * pixel + (1 - factor) * reference`, where the reference is black, the crop's mean grey
    or the pixel's grey: one expression with coefficients that differ by crop.

    Args:
        pixels: `[crops, 3, height, width]`, from 0 to 1.
        order: As in `CropParameters`.
        change: As in `CropParameters`.
    """
    for step in order.unbind(dim=1):
        is_blended = step < HUE
        if is_blended.any():
            factor = change.gather(1, step.clamp(max=HUE)[:, None])[:, 0].where(is_blended, 1.0)
            grey = luma(pixels)
            mean = grey.mean(dim=(1, 2, 3)) * (1 - factor) * (step == CONTRAST)
            grey.mul_(((1 - factor) * (step == SATURATION))[:, None, None, None]).add_(mean[:, None, None, None])
            pixels.mul_(factor[:, None, None, None]).add_(grey).clamp_(0, 1)
        if len(crops := (step == HUE).nonzero().flatten()):
            pixels[crops] = shifted_hue(pixels[crops], change[crops, HUE])


def luma(pixels: Tensor) -> Tensor:
    """Grey of RGB crops: `[crops, 3, height, width]` -> `[crops, 1, height, width]`."""
    red, green, blue = pixels.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def shifted_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Shifts the hue of crops in HSV.

    Value and chroma stay. Each channel falls from the value by as much of the chroma as its place on the circle of six
    hues is near its complement.

    Args:
        pixels: `[crops, 3, height, width]`, from 0 to 1.
        turns: Shift of each crop as a fraction of a whole turn `[crops]`, from -0.5 to 0.5.
    """
    red, green, blue = pixels.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    inverse = chroma.clamp(min=torch.finfo(pixels.dtype).tiny).reciprocal_()
    # Sums of products with 0 and 1: on CPUs torch.where takes several times as long.
    is_red = (value == red).to(pixels.dtype)
    is_green = (value == green).to(pixels.dtype).mul_(1 - is_red)
    hue = (green - blue).mul_(is_red).addcmul_((blue - red).add_(chroma, alpha=2), is_green)
    hue.addcmul_((red - green).add_(chroma, alpha=4), (1 - is_red).sub_(is_green))
    hue.mul_(inverse).add_(6 * turns[:, None, None, None])
    complements = torch.tensor(COMPLEMENTS, device=pixels.device)[:, None, None]
    distance = (hue - complements).abs_()
    distance = torch.minimum(distance, (6 - distance).abs_())
    return torch.sub(value, (2 - distance).clamp_(0, 1).mul_(chroma), out=distance)


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Blurs crops by a Gaussian of 9 pixels, or fewer in small crops, reflected at the edges.

    Args:
        pixels: `[crops, 3, height, width]`.
        sigma: Standard deviation for each crop in pixels `[crops]`, above 0.
    """
    height, width = pixels.shape[-2:]
    side = min(9, 2 * min(height, width) - 1)
    reach = side // 2
    distance = torch.linspace(-reach, reach, side, device=pixels.device)
    weights = (distance / sigma[:, None]).square_().mul_(-0.5).softmax(dim=1)[..., None, None, None].unbind(dim=1)
    padded = F.pad(pixels, (reach, reach, reach, reach), mode="reflect")
    return weighted_sum(weighted_sum(padded, weights, dim=2), weights, dim=3)


def weighted_sum(pixels: Tensor, weights: Sequence[Tensor], dim: int) -> Tensor:
    """Convolves along a dimension, which becomes shorter; faster than `conv2d` for one filter a crop."""
    length = pixels.shape[dim] - len(weights) + 1
    summed = pixels.narrow(dim, 0, length) * weights[0]
    for shift, weight in enumerate(weights[1:], 1):
        summed.addcmul_(pixels.narrow(dim, shift, length), weight)
    return summed
