"""Converts the image values of tables and objects to encoded bytes or the path of a file."""

import base64
import binascii
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset, Features, IterableDataset, Value
from PIL import Image

from .columns import UNDECODED
from .listing import is_image_content


def encoded_images(data: Dataset | IterableDataset, folders: Sequence[str] = ()) -> Dataset | IterableDataset:
    """Makes a column `image` of any kind one of encoded images.

    Args:
        data: Rows with a column `image`: files, bytes, base64, arrays, or lists of one of these.
        folders: Where files with relative names are looked for.
    """
    feature = (data.features or {}).get("image")
    if isinstance(feature, datasets.Image):
        data = data.cast_column("image", UNDECODED)
    elif is_bytes(feature):
        return data.cast_column("image", UNDECODED)
    if isinstance(data, Dataset) and isinstance(feature, datasets.Image) and all_have_bytes_or_files(data):
        return data
    features = Features({**(data.features or {}), "image": UNDECODED})
    convert = EncodedImage(tuple(folders))
    return data.map(convert, input_columns="image", features=features if data.features else None)


def is_bytes(feature: Any) -> bool:
    """Whether a column holds plain bytes."""
    return isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")


def all_have_bytes_or_files(data: Dataset) -> bool:
    """Whether no image is given by a relative path alone."""
    return all(path is None or "://" in path or os.path.isabs(path) for path in named_files(data))


def named_files(data: Dataset) -> Iterator[str | None]:
    """The paths of images that are given without their bytes."""
    for chunk in data.data.column("image").chunks:
        has_bytes = chunk.field("bytes").is_valid()
        if has_bytes.false_count:
            yield from chunk.field("path").filter(pc.invert(has_bytes)).to_pylist()


@dataclass(frozen=True)
class EncodedImage:
    """Converts one value; for `datasets.map`.

    Args:
        folders: Where files with relative names are looked for.
    """

    folders: tuple[str, ...]

    def __call__(self, value: Any) -> dict[str, dict]:
        """Any image value -> `{"image": {"bytes": ..., "path": ...}}`."""
        return {"image": encoded_image(value, self.folders)}


def encoded_image(value: Any, folders: Sequence[str] = ()) -> dict[str, bytes | str | None]:
    """Converts an image value to `{"bytes": ..., "path": ...}`; what is no image is found when it is decoded.

    Raises:
        ValueError: If a row holds several images, or numbers that are no 8-bit pixels.
    """
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        if value.get("bytes") is not None:
            return {"bytes": value["bytes"], "path": value.get("path")}
        value = value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return {"bytes": bytes(value), "path": None}
    if isinstance(value, str | os.PathLike):
        return from_text(os.fspath(value), folders)
    if isinstance(value, list | tuple) and value and not is_number(value):
        if len(value) > 1:
            raise ValueError(
                f"a row holds {len(value)} images, expected one: name another --image_column, or part them"
            )
        return encoded_image(value[0], folders)
    if value is None or (isinstance(value, list | tuple) and not value):
        return {"bytes": None, "path": None}
    buffer = io.BytesIO()
    as_image(np.asarray(value) if isinstance(value, list | tuple) else value).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def is_number(value: Any) -> bool:
    """Whether a nested list holds numbers."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, int | float)


def from_text(text: str, folders: Sequence[str]) -> dict[str, bytes | str | None]:
    """Converts a path, a data URI or base64.

    Raises:
        ValueError: If several of the folders have a file of this name.
    """
    if "://" in text or (os.path.isfile(text) and os.path.isabs(text)):
        return {"bytes": None, "path": text}
    if len(text) < 4096:
        found = [path for folder in folders if os.path.isfile(path := os.path.join(folder, text))]
        if len(found) > 1:
            raise ValueError(f"{text} may be {found[0]} or {found[1]}: write one of them as an absolute path")
        if found:
            return {"bytes": None, "path": found[0]}
    head, _, body = text.partition(",") if text.startswith("data:") else ("", "", text)
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if head or (content and is_image_content(io.BytesIO(content))):
        return {"bytes": content, "path": None}
    return {"bytes": None, "path": text}


def as_image(image: Image.Image | np.ndarray | torch.Tensor) -> Image.Image:
    """Converts 8-bit pixels to a PIL image.

    Tensors are `[channels, height, width]` or `[height, width]`, arrays `[height, width, channels]`,
    `[height, width]` or, with 1 or 3 channels first, `[channels, height, width]`.

    Raises:
        ValueError: If they are not 8-bit pixels, such as a floating-point tensor.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, torch.Tensor) and image.dtype == torch.uint8:
        image = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    if isinstance(image, np.ndarray) and image.dtype.kind in "iu" and image.dtype != np.uint8:
        image = image.astype(np.uint8) if image.size and image.min() >= 0 and image.max() <= 255 else image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3):
        if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[-1] not in (1, 3, 4):
            image = np.moveaxis(image, 0, -1)
        return Image.fromarray(
            np.ascontiguousarray(image.squeeze(-1) if image.ndim == 3 and image.shape[-1] == 1 else image)
        )
    raise ValueError(
        f"{getattr(image, 'dtype', type(image).__name__)}: give PIL images or 8-bit values, without a transform, as "
        "the recipe augments and normalises them"
    )
