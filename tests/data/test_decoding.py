"""Every kind of picture file that users have."""

import contextlib
import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_vit_suite.data import ImageDecodingError, decode_image


def gradient(width: int = 48, height: int = 32) -> np.ndarray:
    """A smooth RGB picture `[height, width, 3]`, different in each direction and channel."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [rows * 255 / (height - 1), columns * 255 / (width - 1), (rows + columns) * 255 / (height + width - 2)]
    return np.stack(channels, axis=2).astype(np.uint8)


def encoded(image: Image.Image, **options) -> bytes:
    """A picture file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["path", "bytes", "mapping", "mapping of path", "image"])
def test_every_kind_of_source_gives_the_same_pixels(kind: str, tmp_path: Path):
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(path)
    source = {
        "path": path,
        "bytes": path.read_bytes(),
        "mapping": {"bytes": path.read_bytes(), "path": None},
        "mapping of path": {"bytes": None, "path": str(path)},
        "image": Image.fromarray(gradient()),
    }[kind]
    decoded = decode_image(source)
    assert decoded.mode == "RGB"
    assert np.array_equal(np.asarray(decoded), gradient())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_by_exif_is_turned_upright(orientation: int):
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned(gradient())))
    decoded = np.asarray(decode_image(encoded(stored, format="JPEG", quality=100, subsampling=0, exif=exif)))
    assert decoded.shape == gradient().shape
    assert np.abs(decoded.astype(int) - gradient()).max() <= 4


def test_cmyk_jpeg_keeps_its_colours():
    cmyk = Image.fromarray(gradient()).convert("CMYK")
    decoded = np.asarray(decode_image(encoded(cmyk, format="JPEG", quality=100, subsampling=0)))
    assert np.abs(decoded.astype(int) - gradient()).max() <= 6


def test_sixteen_bit_png_is_scaled_not_cut():
    levels = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(levels), format="PNG")))
    assert np.abs(decoded[..., 0].astype(float) - levels / 257).max() <= 0.5
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_transparent_parts_become_white():
    pixels = np.dstack([gradient(), np.zeros((32, 48), np.uint8)])
    pixels[:16, :, 3] = 255
    decoded = np.asarray(decode_image(encoded(Image.fromarray(pixels), format="PNG")))
    assert np.array_equal(decoded[:16], gradient()[:16])
    assert (decoded[16:] == 255).all()


def test_palette_with_transparency_becomes_white_there():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.paste(0, (0, 0, 2, 4))
    decoded = np.asarray(decode_image(encoded(palette, format="PNG", transparency=0)))
    assert (decoded[:, :2] == 255).all()
    assert (decoded[:, 2:] == (0, 255, 0)).all()


def test_grey_one_bit_and_float_pictures():
    assert (np.asarray(decode_image(encoded(Image.new("L", (3, 2), 77), format="PNG"))) == 77).all()
    assert (np.asarray(decode_image(encoded(Image.new("1", (3, 2), 1), format="PNG"))) == 255).all()
    assert (np.asarray(decode_image(Image.new("F", (3, 2), 0.5))) == 128).all()
    assert (np.asarray(decode_image(encoded(Image.new("F", (3, 2), 77.0), format="TIFF"))) == 77).all()


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    decoded = decode_image(encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:]))
    assert (np.asarray(decoded) == (255, 0, 0)).all()


def test_single_pixel_picture():
    assert decode_image(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), format="PNG")).getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    "kind", ["truncated.jpg", "truncated.png", "empty.png", "text.png", "missing.png", "bomb.png"]
)
def test_unreadable_file_is_named_in_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / kind
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    if kind.startswith("truncated"):
        noise.save(path)
        path.write_bytes(path.read_bytes()[: os.path.getsize(path) // 2])
    elif kind == "empty.png":
        path.touch()
    elif kind == "text.png":
        path.write_text("no picture at all")
    elif kind == "bomb.png":
        noise.save(path)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageDecodingError) as error:
        decode_image({"bytes": None, "path": str(path)})
    message = str(error.value)
    assert kind in message
    assert "\n" not in message
    assert kind != "empty.png" or "empty" in message


@pytest.mark.parametrize("source", [None, {"bytes": None, "path": None}, b"no picture at all"])
def test_source_without_a_name_is_refused_in_words_that_do_not_change(source: dict | bytes | None):
    with pytest.raises(ImageDecodingError, match="an image without a name is no readable image") as error:
        decode_image(source)
    assert "0x" not in str(error.value)


def test_file_whose_decoder_gives_up_is_refused():
    picture = bytearray(encoded(Image.fromarray(gradient()), format="DDS"))
    picture[80:84] = (144).to_bytes(4, "little")  # flags of a pixel format that Pillow does not implement
    with pytest.raises(ImageDecodingError, match="Unknown pixel format flags 144"):
        decode_image(bytes(picture))


def test_member_of_an_archive_is_read_in_place(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("cat/0.png", encoded(Image.fromarray(gradient()), format="PNG"))
    decoded = decode_image({"bytes": None, "path": f"zip://cat/0.png::{tmp_path}/pictures.zip"})
    assert np.array_equal(np.asarray(decoded), gradient())
    with pytest.raises(ImageDecodingError, match=r"cat/1\.png"):
        decode_image(f"zip://cat/1.png::{tmp_path}/pictures.zip")


def exif_with(*extra: bytes, orientation: bytes = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)) -> bytes:
    """An EXIF block of Orientation 6 (turned by a quarter) and other entries of 12 bytes each."""
    entries = [orientation, *extra]
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "entry",
    [
        struct.pack("<HHI4s", 0x011A, 2, 4, b"72\0\0"),  # a resolution that is text
        struct.pack("<HHI4s", 0x0128, 2, 2, b"2\0\0\0"),  # a unit that is text
        struct.pack("<HHII", 0x0100, 4, 3, 1),  # three values where the block ends
        struct.pack("<HHII", 0x8769, 4, 1, 8),  # a sub-block that is the block itself
        struct.pack("<HHII", 0x8825, 4, 1, 60000),  # a sub-block behind the end
    ],
    ids=["text resolution", "text unit", "wrong count", "loop", "bad pointer"],
)
def test_broken_exif_tag_loses_neither_pixels_nor_orientation(kind: str, entry: bytes):
    stored = np.ascontiguousarray(np.rot90(gradient(), 1))
    decoded = decode_image(encoded(Image.fromarray(stored), format=kind, quality=100, exif=exif_with(entry)))
    assert np.abs(np.asarray(decoded).astype(int) - gradient()).max() <= 12


@pytest.mark.parametrize(
    "exif",
    [b"Exif\0\0garbage!", exif_with(orientation=struct.pack("<HHI4s", 0x0112, 2, 4, b"up\0\0"))],
    ids=["no TIFF", "text orientation"],
)
def test_image_whose_orientation_is_unreadable_is_read_as_stored(exif: bytes):
    decoded = decode_image(encoded(Image.fromarray(gradient()), format="JPEG", quality=100, exif=exif))
    assert np.abs(np.asarray(decoded).astype(int) - gradient()).max() <= 12


@pytest.mark.parametrize("kind", range(1, 14))
def test_tiff_whose_tags_have_wrong_types_is_an_image_or_one_line(kind: int):
    whole = encoded(Image.fromarray(gradient()), format="TIFF")
    (start,) = struct.unpack_from("<I", whole, 4)
    (count,) = struct.unpack_from("<H", whole, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        damaged = whole[: entry + 2] + struct.pack("<H", kind) + whole[entry + 4 :]
        with contextlib.suppress(ImageDecodingError):
            assert decode_image(damaged).mode == "RGB"
