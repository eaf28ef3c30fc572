"""Random crops of 8-bit images and changes of their colours, in few passes over the pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

# Positions of the jitter's operations in `JITTER`.
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
# Largest changes of BYOL's jitter, which DINO uses (Grill et al. 2020, arXiv 2006.07733, appendix B).
JITTER = (0.4, 0.4, 0.2, 0.1)
JITTERED, GREY = 0.8, 0.2
# ITU-R BT.601, as Pillow and torchvision round it.
LUMA = (0.2989, 0.587, 0.114)
LARGEST, SOLARIZE_THRESHOLD = 255.0, 128.0
CROP_TRIES, CROP_RATIO = 10, (3 / 4, 4 / 3)
# Width of the paper's blur in pixels. Smaller weights are left out: they change a pixel by 0.2 of 255 levels at most.
BLUR_KERNEL, BLUR_WEIGHT = 9, 2e-4

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class CropParameters:
    """Random parameters of one crop.

    Args:
        box: (top, left, height, width) in pixels of the image.
        is_flipped: Whether the crop is mirrored horizontally.
        jitter: Pairs of an operation (`BRIGHTNESS`, `CONTRAST`, `SATURATION` or `HUE`) and its strength, in the order
            of application: a factor above 0, or the shift of hue in turns from -0.5 to 0.5.
        is_grey: Whether the crop is without colour.
        sigma: Standard deviation of the blur in pixels, 0 for none.
        is_solarized: Whether pixels of 128 and above are inverted.
    """

    box: Box
    is_flipped: bool = False
    jitter: tuple[tuple[int, float], ...] = ()
    is_grey: bool = False
    sigma: float = 0.0
    is_solarized: bool = False


def draw_crops(
    size: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    blur: Sequence[float],
    solarize: Sequence[float],
    sigma: tuple[float, float],
) -> list[CropParameters]:
    """Draws the parameters of an image's crops from torch's generator (Caron et al. 2021, arXiv 2104.14294).

    Args:
        size: (height, width) of the image in pixels.
        scale: Smallest and largest fraction of the image's area.
        flip: Probability of a mirrored crop.
        blur: Probability of a blur, for each crop.
        solarize: Probability of a solarisation, for each crop.
        sigma: Smallest and largest standard deviation of the blur in pixels.
    """
    crops = []
    boxes = draw_boxes(size, len(blur), scale)
    # Python's numbers: a tensor operation for each of them would take as long as the pixels of a small crop.
    for box, drawn, blurred, solarized in zip(boxes, torch.rand(len(blur), 14).tolist(), blur, solarize, strict=True):
        crops.append(
            CropParameters(
                box=box,
                is_flipped=drawn[0] < flip,
                jitter=drawn_jitter(drawn[1:5], drawn[5:9]) if drawn[9] < JITTERED else (),
                is_grey=drawn[10] < GREY,
                sigma=sigma[0] + (sigma[1] - sigma[0]) * drawn[11] if drawn[12] < blurred else 0.0,
                is_solarized=drawn[13] < solarized,
            )
        )
    return crops


def drawn_jitter(strengths: Sequence[float], ranks: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """Converts four uniform numbers to strengths, and four more to a random order, as `v2.ColorJitter` draws them."""
    changes = [(2 * drawn - 1) * largest for drawn, largest in zip(strengths, JITTER, strict=True)]
    order = sorted(range(len(JITTER)), key=ranks.__getitem__)
    return tuple((step, changes[step] if step == HUE else 1 + changes[step]) for step in order)


def draw_boxes(size: tuple[int, int], crops: int, scale: tuple[float, float]) -> list[Box]:
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


def largest_box(height: int, width: int) -> Box:
    """Returns the largest central crop whose aspect ratio is within the range."""
    wide = min(width, max(1, round(height * CROP_RATIO[1])))
    tall = min(height, max(1, round(width / CROP_RATIO[0])))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def cut(image: Tensor, box: Box, size: tuple[int, int], interpolation: InterpolationMode) -> Tensor:
    """Cuts and resizes one crop.

    Args:
        image: 8-bit image `[channels, height, width]`; fast if its channels are last in memory.
        box: (top, left, height, width) in pixels.
        size: (height, width) of the result.
        interpolation: How to resize, antialiased except for the nearest pixel.

    Returns:
        8-bit crop `[channels, height, width]`.
    """
    top, left, height, width = box
    part = image[:, top : top + height, left : left + width]
    if interpolation is InterpolationMode.BICUBIC:  # what torchvision calls, without its checks of the input
        return F.interpolate(part[None], size, mode="bicubic", antialias=True, align_corners=False)[0]
    return v2.functional.resize(part, list(size), interpolation)


def augment(
    crop: Tensor, parameters: CropParameters, mean: Sequence[float], std: Sequence[float], out: Tensor
) -> None:
    """Mirrors, jitters, blurs, solarises and normalises a crop as torchvision's v2 does a floating-point image.

    Args:
        crop: 8-bit RGB crop `[3, height, width]`.
        parameters: Random parameters; the box is not used.
        mean: Subtracted from each channel of pixels from 0 to 1.
        std: Divides each channel.
        out: Result `[3, height, width]`, float32.
    """
    levels = Levels(planar(crop.flip(-1) if parameters.is_flipped else crop))
    for step, strength in parameters.jitter:
        levels.jitter(step, strength)
    if parameters.is_grey:
        levels.make_grey()
    if parameters.sigma:
        levels.blur(parameters.sigma)
    if parameters.is_solarized:
        levels.solarize()
    levels.write_normalized(mean, std, out)


def normalized(crop: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalises an 8-bit crop `[3, height, width]` to float32, as `augment` without random changes."""
    out = torch.empty(crop.shape, dtype=torch.float32)
    Levels(planar(crop)).write_normalized(mean, std, out)
    return out


def planar(crop: Tensor) -> Tensor:
    """Converts an 8-bit crop to float32 with one plane a channel: operations on interleaved channels are slower."""
    return crop.to(torch.float32, memory_format=torch.contiguous_format)


class Levels:
    """Pixels from 0 to 255, held as `scale * stored + weight * grey of stored + offset`.

    Brightness, contrast and saturation are weighted sums of a pixel, its grey and a constant, and so is any sequence
    of them. Three numbers therefore hold a sequence, and the pixels change only where they must:

    - Hue, blur and normalisation commute with scale and offset.
    - A factor up to 1 averages two values within the range, so only larger factors need a clamp. It is applied at
      once, to the stored pixels, because clamping at the end alone gives other pixels.

    Args:
        stored: `[3, height, width]`, float32, from 0 to 255; changed in place.
    """

    def __init__(self, stored: Tensor) -> None:
        self.stored = stored
        self.scale, self.weight, self.offset = 1.0, 0.0, 0.0

    def jitter(self, step: int, strength: float) -> None:
        """Applies one operation of the jitter, before `make_grey`; its strength is as in `CropParameters`."""
        if step == HUE:
            self.add_grey()
            shift_hue(self.stored, strength)
            return
        if step == CONTRAST:
            mean = self.mean_grey()
        self.scale, self.weight, self.offset = (strength * value for value in (self.scale, self.weight, self.offset))
        if step == CONTRAST:
            self.offset += (1 - strength) * mean
        elif step == SATURATION:
            rest = (1 - strength) / strength
            self.weight += rest * (self.scale + self.weight * sum(LUMA))
            self.offset += rest * self.offset * sum(LUMA)
        if strength > 1:
            self.clamp()

    def make_grey(self) -> None:
        """Replaces the channels by their grey, of which one channel is stored."""
        total = sum(LUMA)
        self.stored = luma(self.stored, LUMA)[None]
        self.scale, self.weight, self.offset = self.scale + total * self.weight, 0.0, total * self.offset

    def mean_grey(self) -> float:
        """Returns the mean of the image's grey."""
        mean = sum(weight * value for weight, value in zip(LUMA, self.stored.mean(dim=(1, 2)).tolist(), strict=True))
        return (self.scale + sum(LUMA) * self.weight) * mean + sum(LUMA) * self.offset

    def add_grey(self) -> None:
        """Adds the weighted grey to the stored pixels, after which its weight is 0."""
        if self.weight:
            ratio = self.weight / self.scale
            self.stored.add_(luma(self.stored, [ratio * weight for weight in LUMA]))
            self.weight = 0.0

    def clamp(self) -> None:
        """Clamps pixels to the range from 0 to 255."""
        self.add_grey()
        self.stored.clamp_(-self.offset / self.scale, (LARGEST - self.offset) / self.scale)

    def blur(self, sigma: float) -> None:
        """Blurs by a Gaussian; its weights sum to 1, so that scale and offset stay."""
        self.add_grey()
        self.stored = blur(self.stored, sigma)

    def solarize(self) -> None:
        """Inverts pixels of 128 and above."""
        self.add_grey()
        pixels = self.stored.mul_(self.scale).add_(self.offset)
        torch.where(pixels >= SOLARIZE_THRESHOLD, LARGEST - pixels, pixels, out=pixels)
        self.scale, self.offset = 1.0, 0.0

    def write_normalized(self, mean: Sequence[float], std: Sequence[float], out: Tensor) -> None:
        """Writes pixels scaled to 0 to 1 and normalised by channel to `out`, `[3, height, width]`."""
        self.add_grey()
        offset, scale = self.offset / LARGEST, self.scale / LARGEST
        shifts = torch.tensor([(offset - center) / deviation for center, deviation in zip(mean, std, strict=True)])
        channels = self.stored.expand_as(out).unbind()
        for shift, channel, deviation, result in zip(shifts.unbind(), channels, std, out.unbind(), strict=True):
            torch.add(shift, channel, alpha=scale / deviation, out=result)


def luma(pixels: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of the channels, `[3, height, width]` -> `[height, width]`."""
    red, green, blue = pixels.unbind()
    return (red * weights[0]).add_(green, alpha=weights[1]).add_(blue, alpha=weights[2])


def shift_hue(pixels: Tensor, turns: float) -> None:
    """Shifts the hue in HSV, in place, without a conversion to HSV.

    Value and chroma stay, so every channel stays within the pixel's smallest and largest value. Let these be 0 and 1,
    and let the shift be s sixths of a turn, at most 0.5. Over a turn of the hue, a channel r is 1 for two sixths,
    falls for one, is 0 for two and rises for one. The next channel g follows two sixths later: it is 1 while r falls
    and 0 while r rises. So r moves by s against g; where r starts to move within the shift, it moves by the part of
    the shift that g's own slope leaves. `clamp(r + clamp(g, s, 1 - s) - g, 0, 1)` covers all cases. Larger shifts take
    several steps.

    Args:
        pixels: `[3, height, width]`.
        turns: Shift as a fraction of a whole turn, from -0.5 to 0.5.
    """
    steps = math.ceil(abs(turns) * 12)
    if not steps:
        return
    red, green, blue = pixels.unbind()
    smallest = torch.minimum(red, green)
    torch.minimum(smallest, blue, out=smallest)
    largest = torch.maximum(red, green)
    torch.maximum(largest, blue, out=largest)
    shift = 6 * abs(turns) / steps
    low, high = torch.lerp(smallest, largest, shift), torch.lerp(largest, smallest, shift)
    neighbours = (1, 2, 0) if turns > 0 else (2, 0, 1)
    for _ in range(steps):
        moved = torch.clamp(pixels, low, high).sub_(pixels).unbind()
        for channel, neighbour in zip((red, green, blue), neighbours, strict=True):
            channel.add_(moved[neighbour])
        torch.clamp(pixels, smallest, largest, out=pixels)


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Blurs by a Gaussian of 9 pixels, or fewer where a side or sigma is small, reflected at the edges.

    Args:
        pixels: `[channels, height, width]`.
        sigma: Standard deviation in pixels, above 0.
    """
    reach = min(BLUR_KERNEL // 2, min(pixels.shape[-2:]) - 1)
    half = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(reach + 1)]
    total = half[0] + 2 * sum(half[1:])
    half = [weight / total for weight in half if weight > BLUR_WEIGHT * total]
    if (reach := len(half) - 1) == 0:
        return pixels
    half[0] = 1 - 2 * sum(half[1:])
    weights = [*half[:0:-1], *half]
    padded = F.pad(pixels[None], (reach, reach, reach, reach), mode="reflect")[0]
    return weighted_sum(weighted_sum(padded, weights, dim=1), weights, dim=2)


def weighted_sum(pixels: Tensor, weights: Sequence[float], dim: int) -> Tensor:
    """Convolves along a dimension, which becomes shorter; faster than `conv2d` for so few channels."""
    shifted = pixels.unfold(dim, len(weights), 1).unbind(-1)
    summed = shifted[0] * weights[0]
    for part, weight in zip(shifted[1:], weights[1:], strict=True):
        summed.add_(part, alpha=weight)
    return summed
