"""Random resized crops of JPEG files, decoded at no more resolution than a crop needs."""

import os
import warnings
from collections.abc import Mapping

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from .decoding import MOST_PIXELS, REDUCED_ABOVE, decode_image, open_image, orientation, upright_rgb
from .pixels import Box, cut, draw_boxes

# Divisors of the size at which JPEG's 8 x 8 blocks can be decoded.
DIVISORS = (8, 4, 2)
# Pixels decoded for each pixel of a crop, in both directions. JPEG's reduction keeps more detail than an antialiased
# resize, which still has to average it away: with a margin of 1 sharp photographs differ by up to 4 levels of 255 in
# the mean, with this by 1.7.
MARGIN = 1.75

Source = Mapping | bytes | str | os.PathLike | Image.Image | None


def random_resized_crop(
    source: Source, size: tuple[int, int], scale: tuple[float, float], interpolation: InterpolationMode
) -> Tensor:
    """Decodes an image, cuts a random part and resizes it (Szegedy et al. 2014, arXiv 1409.4842).

    Where the file is decoded at a reduced scale, pixels differ from those of the whole image by less than 2 of 255
    levels in the mean.

    Args:
        source: As for `decode_image`.
        size: (height, width) of the result in pixels.
        scale: Smallest and largest fraction of the image's area.
        interpolation: How to resize, antialiased except for the nearest pixel.

    Returns:
        8-bit RGB crop `[3, height, width]`.

    Raises:
        ImageDecodingError: As `decode_image`.
    """
    image, box = decode_for_crop(source, size, scale)
    return cut(v2.functional.pil_to_tensor(image), box, size, interpolation)


def decode_for_crop(source: Source, size: tuple[int, int], scale: tuple[float, float]) -> tuple[Image.Image, Box]:
    """Draws a crop and decodes the image for it, in RGB; a plain JPEG file at the smallest sufficient scale.

    Returns:
        The image, and (top, left, height, width) of the crop in its pixels.

    Raises:
        ImageDecodingError: As `decode_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_image(source) as image:
                if image is not source and is_plain_jpeg(image):
                    (box,) = draw_boxes((image.height, image.width), 1, scale)
                    box = reduce_for_crop(image, box, size)
                    return upright_rgb(image), box
    except Exception:  # whatever Pillow raises; `decode_image` decides whether it is an error, and says which
        pass
    image = decode_image(source)
    return image, draw_boxes((image.height, image.width), 1, scale)[0]


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether an image, not loaded yet, is an upright baseline JPEG file that `decode_image` decodes at full size."""
    is_baseline = image.format == "JPEG" and image.mode in ("RGB", "L") and "progressive" not in image.info
    most = min(REDUCED_ABOVE, int(os.environ.get(MOST_PIXELS, REDUCED_ABOVE)))
    is_small = image.width * image.height <= most
    return is_baseline and is_small and "transparency" not in image.info and orientation(image) == 1


def reduce_for_crop(image: Image.Image, box: Box, size: tuple[int, int]) -> Box:
    """Makes a JPEG file decode at the smallest scale at which a crop has `MARGIN` times its resized size.

    Args:
        image: Not loaded yet.
        box: (top, left, height, width) in pixels of the file.
        size: (height, width) of the resized crop.

    Returns:
        (top, left, height, width) in pixels that will be decoded. The edges are rounded to these pixels: a crop
        between them would need an interpolation that 8-bit tensors do not have.
    """
    top, left, height, width = box
    for divisor in DIVISORS:
        if height >= MARGIN * divisor * size[0] and width >= MARGIN * divisor * size[1]:
            break
    else:
        return box
    image.draft(None, (image.width // divisor, image.height // divisor))
    tall, wide = height // divisor, width // divisor
    return min(round(top / divisor), image.height - tall), min(round(left / divisor), image.width - wide), tall, wide
