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

from hf_vit_suite.data import ImageDecodingError, decode_image, load_image_dataset, load_unlabelled_images
from hf_vit_suite.training.arguments import UnlabelledDataArguments


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


def test_larger_images_are_read_where_they_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("RGB", (100, 100)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    monkeypatch.setenv("HF_VIT_SUITE_MAX_IMAGE_PIXELS", "5000")
    with pytest.raises(ImageDecodingError) as error:
        decode_image(tmp_path / "large.png")
    message = "large.png is no readable image: it has more than 5,000 pixels: allow more by --max_image_pixels"
    assert message in str(error.value)
    UnlabelledDataArguments(dataset=str(tmp_path), max_image_pixels=10_000).load()
    assert decode_image(tmp_path / "large.png").size == (100, 100)
    with pytest.raises(ValueError, match="--max_image_pixels must be at least 1, got 0"):
        UnlabelledDataArguments(dataset=str(tmp_path), max_image_pixels=0).load()


@pytest.mark.parametrize(("size", "read"), [((9000, 8000), (4500, 4000)), ((8000, 8000), (8000, 8000))])
def test_very_large_jpeg_is_decoded_at_a_reduced_scale(size: tuple[int, int], read: tuple[int, int]):
    image = Image.new("L", size, 60)
    image.paste(200, (0, 0, size[0] // 2, size[1]))
    decoded = decode_image(encoded(image, format="JPEG"))
    assert decoded.size == read
    assert [decoded.getpixel((read[0] * part // 4, 9))[0] for part in (1, 3)] == pytest.approx([200, 60], abs=3)


def test_image_object_of_the_caller_keeps_its_size():
    image = Image.open(io.BytesIO(encoded(Image.new("L", (9000, 8000)), format="JPEG")))
    assert decode_image(image).size == (9000, 8000)


@pytest.mark.parametrize("suffix", ["HEIC", "jxl"])
def test_image_whose_plugin_is_missing_is_named_with_it(tmp_path: Path, suffix: str):
    Image.new("RGB", (4, 4)).save(tmp_path / "0.png")
    (tmp_path / f"1.{suffix}").write_bytes(b"\0\0\0\x18ftypheic")
    data = load_unlabelled_images(str(tmp_path))
    assert f"1.{suffix} (images of a format that needs a plugin of Pillow)" in data.reading.summary
    for label in "ab":
        (tmp_path / "classes" / label).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "classes" / label / "0.png")
    (tmp_path / "classes" / "c").mkdir()
    (tmp_path / f"1.{suffix}").rename(tmp_path / "classes" / "c" / f"1.{suffix}")
    with pytest.raises(ValueError, match=rf"class folder c has no image .*; c/1.{suffix} needs a plugin of Pillow"):
        load_image_dataset(str(tmp_path / "classes"))


def test_installed_plugin_of_pillow_is_used(tmp_path: Path, run_python):
    (tmp_path / "pillow_heif.py").write_text(
        "from PIL import Image, PngImagePlugin\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', PngImagePlugin.PngImageFile, PngImagePlugin._accept)\n"
        "    Image.register_extension('HEIF', '.heic')\n"
    )
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4), (9, 8, 7)).save(tmp_path / "photos" / "0.png")
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "0.heic")
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from hf_vit_suite.data import decode_image, load_unlabelled_images\n"
        "(row,) = load_unlabelled_images('photos').rows\n"
        "print(decode_image(row['image']).getpixel((0, 0)))"
    )
    assert run_python("-c", code).stdout.endswith("(9, 8, 7)\n")
