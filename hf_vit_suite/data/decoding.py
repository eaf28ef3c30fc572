"""Any picture file to 8-bit RGB, or one line that says why not."""

import io
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import fsspec
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

# How an image is turned upright, by the value of EXIF's tag Orientation; 1 is upright already.
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


class ImageDecodingError(ValueError):
    """A file that holds no readable image; the message says which and why."""


def decode_image(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> Image.Image:
    """Reads an image as people see it: upright, on white where transparent, the first frame of an animation.

    Args:
        source: A path or fsspec URL, the file's bytes, `{"bytes": ..., "path": ...}` as `datasets.Image(decode=False)`
            gives (`None` where a row has no image), or a PIL image.

    Returns:
        A loaded PIL image of mode RGB. 16-bit images are scaled to 8 bits by the range of 16.

    Raises:
        ImageDecodingError: If there is no image or no such file, or it is empty, cut off, or no image.
    """
    try:
        with warnings.catch_warnings():
            # Broken metadata is no fault of the pixels, whatever Python's own filters make of a warning.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # An image large enough for Pillow's warning is an attack or a mistake; here it counts as unreadable.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with open_image(source) as image:
                return upright_rgb(image)
    except Exception as error:  # on broken files Pillow's readers raise every kind, from struct.error to KeyError
        raise ImageDecodingError(f"{image_name(source)} is no readable image: {reason(error, source)}") from error


def open_image(
    source: Mapping | bytes | str | os.PathLike | Image.Image | None,
) -> AbstractContextManager[Image.Image]:
    """The PIL image of any kind of source, not yet decoded; only what is opened here is closed."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise ValueError("there are neither bytes nor a path")
    if isinstance(source, str) and "://" in source:  # streamed files and members of archives stay where they are
        source = file_bytes({"path": source})
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def file_bytes(image: Mapping) -> bytes:
    """The encoded bytes of an image as `datasets.Image(decode=False)` gives it, from its file where it has a path."""
    if image.get("bytes") is not None:
        return image["bytes"]
    path = image["path"]
    with fsspec.open(path, "rb") if "://" in path else open(path, "rb") as file:
        return file.read()


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image of any mode, turned as its EXIF says, as 8-bit RGB."""
    image.load()  # before the metadata: Pillow turns a TIFF itself, and then takes the orientation out
    if (turn := UPRIGHT.get(orientation(image))) is not None:
        image = image.transpose(turn)
    if image.mode in SIXTEEN_BIT_MODES:
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        # Floats carry no range of their own: up to 1 they are shares, above they are 8-bit levels.
        scale = 255 if values.max() <= 1 else 1
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")
    return image.convert("RGB")  # of an RGB image a copy, so that a caller's own is never handed back


def orientation(image: Image.Image) -> int:
    """EXIF's Orientation of a loaded image; 1, upright, where there is none or the metadata can't be read.

    `ImageOps.exif_transpose` would write the other tags anew, which fails on tags whose type or value is wrong.
    """
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's EXIF, TIFF and XMP readers raise every kind
        return 1


def reason(error: Exception, source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> str:
    """Why a source can't be decoded, in one line that does not repeat its name."""
    if is_empty(source):
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is in no image format that Pillow knows"
    message = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, OSError | ValueError | SyntaxError | RuntimeError | Warning) and message:
        return message
    return f"{type(error).__name__} {message}".strip()  # such as KeyError, whose message is a number alone


def image_name(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> str:
    """What to call a source in a message."""
    if isinstance(source, Mapping):
        return str(source.get("path") or "an image without a name")
    return str(source) if isinstance(source, str | os.PathLike) else "an image without a name"


def is_empty(source: Mapping | bytes | str | os.PathLike | Image.Image | None) -> bool:
    """Whether a source is a file, or bytes, of length 0."""
    if isinstance(source, Mapping):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, bytes):
        return not source
    return isinstance(source, str | os.PathLike) and os.path.isfile(source) and not os.path.getsize(source)
