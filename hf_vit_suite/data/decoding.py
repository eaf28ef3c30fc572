"""Decodes any image file to 8-bit RGB, or raises a one-line error."""

import io
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import fsspec
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .listing import load_plugins

# Transpose that makes an image upright, by EXIF Orientation; 1 is already upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
WHITE = (255, 255, 255, 255)
# The environment reaches worker processes, however they are started.
MOST_PIXELS = "HF_VIT_SUITE_MAX_IMAGE_PIXELS"
# JPEG files of more pixels are decoded at half, a quarter or an eighth of their size, but at no fewer than a quarter
# of this. Models read a hundredth of that.
REDUCED_ABOVE = 64_000_000


class ImageDecodingError(ValueError):
    """An image can't be decoded; the message names the image and the cause."""


def decode_image(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> Image.Image:
    """Decodes an image as a viewer shows it: upright, transparency on white, the first frame of an animation.

    Args:
        source: A path or fsspec URL, encoded bytes, `{"bytes": ..., "path": ...}` of `datasets.Image(decode=False)`
            (None for a row without an image), or a PIL image.

    Returns:
        A loaded PIL image of mode RGB. 16-bit values are divided by 257 to fit 8 bits.

    Raises:
        ImageDecodingError: If the source is missing, empty, truncated or not an image.
    """
    try:
        with warnings.catch_warnings():
            # Broken metadata does not affect the pixels; Python's filters could make Pillow's warning an error.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # An image above the size limit is an attack or a mistake: treat it as unreadable.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if MOST_PIXELS in os.environ:
                Image.MAX_IMAGE_PIXELS = int(os.environ[MOST_PIXELS])
            load_plugins()
            with open_image(source) as image:
                if image is not source:
                    reduce_large(image)
                return upright_rgb(image)
    except Exception as error:  # Pillow raises many types on broken files, from struct.error to KeyError
        raise ImageDecodingError(f"{image_name(source)} is no readable image: {reason(error, source)}") from error


def open_image(
    source: Mapping | bytes | str | os.PathLike | Image.Image | None,
) -> AbstractContextManager[Image.Image]:
    """Opens any source as a PIL image, not yet decoded; on exit, a PIL image passed in stays open."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise ValueError("there are neither bytes nor a path")
    if isinstance(source, str) and "://" in source:  # streamed files and archive members
        source = file_bytes({"path": source})
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def file_bytes(image: Mapping) -> bytes:
    """Returns the encoded bytes of a `datasets.Image(decode=False)` value; reads its path if it has no bytes."""
    if image.get("bytes") is not None:
        return image["bytes"]
    path = image["path"]
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file:
        return file.read()


def allow_pixels(number: int | None) -> None:
    """Sets the limit of `decode_image`, here and in processes started later; None leaves it.

    Raises:
        ValueError: If the number is below 1.
    """
    if number is None:
        return
    if number < 1:
        raise ValueError(f"--max_image_pixels must be at least 1, got {number}")
    os.environ[MOST_PIXELS] = str(number)


def reduce_large(image: Image.Image) -> None:
    """Makes a very large JPEG file decode at a reduced scale, which takes less time and memory."""
    pixels, divisor = image.width * image.height, 1
    while pixels / divisor**2 > REDUCED_ABOVE and divisor < 8:
        divisor *= 2
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Converts a PIL image of any mode to 8-bit RGB and applies its EXIF orientation."""
    image.load()  # before reading EXIF: loading a TIFF applies and removes its orientation
    if (turn := UPRIGHT.get(orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode in SIXTEEN_BIT_MODES:
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        # Floats have no fixed range: a maximum up to 1 means [0, 1], above 1 means 8-bit levels.
        scale = 255 if values.max() <= 1 else 1
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")  # copies an RGB image: the caller's image is never returned


def orientation(image: Image.Image) -> int:
    """Returns the EXIF Orientation of a loaded image; 1 (upright) if it is missing or unreadable.

    `ImageOps.exif_transpose` also rewrites the other tags, which fails if a tag's type or value is invalid.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's EXIF, TIFF and XMP readers raise many types
        return 1


def reason(error: Exception, source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> str:
    """Returns why a source can't be decoded, in one line without its name."""
    if is_empty(source):
        return "the file is empty"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"it has more than {Image.MAX_IMAGE_PIXELS:,} pixels: allow more by --max_image_pixels or {MOST_PIXELS}"
    if isinstance(error, UnidentifiedImageError):
        return "it is in no image format that Pillow knows"
    message = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, OSError | ValueError | SyntaxError | RuntimeError | Warning) and message:
        return message
    return f"{type(error).__name__} {message}".strip()  # such as KeyError, whose message may be only a number


def image_name(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> str:
    """Returns a source's name for messages."""
    if isinstance(source, Mapping):
        return str(source.get("path") or "an image without a name")
    return str(source) if isinstance(source, str | os.PathLike) else "an image without a name"


def is_empty(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> bool:
    """Whether a source is a file or bytes of length 0."""
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return not source
    return isinstance(source, str | os.PathLike) and os.path.isfile(source) and not os.path.getsize(source)
