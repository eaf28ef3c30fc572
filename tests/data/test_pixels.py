"""Changes of crops and scaled decoding: pixels and distributions of parameters are torchvision's."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, ks_2samp
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from hf_vit_suite.data.decoding import MOST_PIXELS, ImageDecodingError, decode_image
from hf_vit_suite.data.jpeg import decode_for_crop, random_resized_crop
from hf_vit_suite.data.pixels import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    CropParameters,
    augment,
    blur,
    cut,
    draw_boxes,
    draw_crops,
    normalized,
    shift_hue,
)

DRAWN = 2000
BOX = (0, 0, 1, 1)  # `augment` does not use it
SIZES = [(33, 20), (16, 16), (1, 7), (9, 1), (1, 1), (224, 225)]
STEPS = {
    BRIGHTNESS: functional.adjust_brightness,
    CONTRAST: functional.adjust_contrast,
    SATURATION: functional.adjust_saturation,
    HUE: functional.adjust_hue,
}


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Large coloured areas with fine grain, which reach both ends of the range."""
    random = np.random.default_rng(seed)
    height, width = size
    coarse = random.integers(-60, 315, (height // 20 + 2, width // 20 + 2, 3)).clip(0, 255).astype(np.uint8)
    areas = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(areas) + random.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def image_of(size: tuple[int, int], kind: str = "coloured") -> Tensor:
    """8-bit RGB image `[3, height, width]`."""
    pixels = functional.pil_to_tensor(smooth(size))
    if kind == "grey":
        return pixels[:1].expand(3, -1, -1).contiguous()
    return torch.full_like(pixels, 255) if kind == "white" else pixels


def changed(image: Tensor, **parameters) -> Tensor:
    """Our result in levels from 0 to 255."""
    out = torch.empty(image.shape)
    augment(image, CropParameters(BOX, **parameters), (0.0,) * 3, (1.0,) * 3, out)
    return 255 * out


def expected(image: Tensor, parameters: CropParameters) -> Tensor:
    """torchvision's result in levels from 0 to 255, computed on floats as it rounds down after each step on bytes."""
    pixels = image / 255
    if parameters.is_flipped:
        pixels = functional.horizontal_flip(pixels)
    for step, strength in parameters.jitter:
        pixels = STEPS[step](pixels, strength)
    if parameters.is_grey:
        pixels = functional.rgb_to_grayscale(pixels, num_output_channels=3)
    if parameters.sigma:
        side = min(9, 2 * min(image.shape[-2:]) - 1)
        pixels = functional.gaussian_blur(pixels, [side, side], [parameters.sigma] * 2)
    if parameters.is_solarized:
        pixels = functional.solarize(pixels, 128 / 255)
    return 255 * pixels


every_kind = pytest.mark.parametrize("kind", ["coloured", "grey", "white"])
every_size = pytest.mark.parametrize("size", SIZES)


@every_kind
@every_size
def test_each_operation_equals_torchvisions(size: tuple[int, int], kind: str):
    image = image_of(size, kind)
    cases = [{"is_flipped": True}, {"is_grey": True}, {"is_solarized": True}]
    cases += [{"sigma": sigma} for sigma in (0.1, 0.4, 0.7, 1.1, 2.0)]
    cases += [{"jitter": ((step, factor),)} for step in (BRIGHTNESS, CONTRAST, SATURATION) for factor in (0.6, 1.4)]
    cases += [{"jitter": ((HUE, turns),)} for turns in (-0.5, -0.1, -0.07, 0.0, 0.03, 0.1, 0.26, 0.5)]
    for case in cases:
        difference = changed(image, **case) - expected(image, CropParameters(BOX, **case))
        assert difference.abs().mean() < 0.1, case
        assert difference.abs().max() < 0.5, case


@every_kind
@every_size
def test_drawn_changes_equal_torchvisions_in_any_order(size: tuple[int, int], kind: str):
    image = image_of(size, kind)
    torch.manual_seed(0)
    for parameters in draw_crops(size, (0.4, 1.0), 0.5, [0.5] * 40, [0.0] * 40, (0.1, 2.0)):
        out = torch.empty(image.shape)
        augment(image, parameters, (0.0,) * 3, (1.0,) * 3, out)
        assert (255 * out - expected(image, parameters)).abs().mean() < 0.2, parameters


def test_solarisation_after_other_changes_equals_torchvisions_on_average():
    """Rounding at the threshold inverts a pixel in one of them alone, hence the larger tolerance."""
    image = image_of((64, 64))
    torch.manual_seed(0)
    for parameters in draw_crops((64, 64), (0.4, 1.0), 0.5, [0.0] * 40, [1.0] * 40, (0.1, 2.0)):
        out = torch.empty(image.shape)
        augment(image, parameters, (0.0,) * 3, (1.0,) * 3, out)
        assert (255 * out - expected(image, parameters)).abs().mean() < 1, parameters


def test_rounding_of_torchvision_on_bytes_is_the_largest_difference():
    """It truncates after every step, about half a level each."""
    image = image_of((96, 96))
    for step, strength in ((BRIGHTNESS, 1.2), (CONTRAST, 0.7), (SATURATION, 1.2), (HUE, 0.08)):
        difference = changed(image, jitter=((step, strength),)) - STEPS[step](image, strength).float()
        assert difference.abs().mean() < 1, step


def test_every_hue_shifts_as_in_hsv():
    """All colours of a lattice, so that every order of the channels and every tie occurs."""
    axis = torch.linspace(0, 1, 18)
    colours = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, 18, -1)
    for turns in torch.linspace(-0.5, 0.5, 41).tolist():
        found = colours.clone()
        shift_hue(found, turns)
        torch.testing.assert_close(found, functional.adjust_hue(colours, turns), rtol=0, atol=1e-5)


def test_blur_keeps_constant_images():
    constant = torch.full((3, 12, 10), 77.0)
    for sigma in (0.1, 0.5, 1.0, 2.0):
        torch.testing.assert_close(blur(constant, sigma), constant)


def test_normalisation_is_torchvisions():
    image, mean, std = image_of((20, 31)), [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    reference = functional.normalize(image / 255, mean, std)
    torch.testing.assert_close(normalized(image, mean, std), reference)
    out = torch.empty(3, 20, 31)
    augment(image, CropParameters(BOX, is_grey=True), mean, std, out)
    grey = functional.rgb_to_grayscale(image / 255, num_output_channels=3)
    torch.testing.assert_close(out, functional.normalize(grey, mean, std), rtol=1e-5, atol=1e-5)


def test_augmentation_leaves_its_input_as_it_is():
    image = image_of((16, 17))
    before = image.clone()
    changed(image, jitter=((SATURATION, 1.4), (HUE, 0.1)), is_solarized=True, sigma=1.0)
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    "interpolation", [InterpolationMode.BICUBIC, InterpolationMode.BILINEAR, InterpolationMode.NEAREST]
)
@pytest.mark.parametrize("size", [(24, 16), (1, 9), (50, 70)])
def test_cut_equals_torchvisions_crop_and_resize(size: tuple[int, int], interpolation: InterpolationMode):
    image = image_of((50, 70))
    for box in [(0, 0, 50, 70), (3, 9, 20, 31), (49, 69, 1, 1), (10, 10, 24, 16), (0, 5, 50, 1)]:
        reference = functional.resized_crop(image, *box, list(size), interpolation)
        assert torch.equal(cut(image, box, size, interpolation), reference)


@pytest.mark.parametrize(("size", "scale"), [((375, 500), (0.05, 0.4)), ((200, 40), (0.4, 1.0)), ((3, 900), (0.4, 1))])
def test_boxes_are_drawn_as_torchvision_draws_them(size: tuple[int, int], scale: tuple[float, float]):
    torch.manual_seed(0)
    drawn = np.array(draw_boxes(size, DRAWN, scale))
    crop = v2.RandomResizedCrop(8, scale=scale)
    made = [crop.make_params([torch.empty(3, *size)]) for _ in range(DRAWN)]
    for column, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(drawn[:, column], [box[name] for box in made]).pvalue > 1e-3, name
    assert (drawn[:, 0] + drawn[:, 2] <= size[0]).all()
    assert (drawn[:, 1] + drawn[:, 3] <= size[1]).all()
    assert drawn[:, :2].min() >= 0
    assert drawn[:, 2:].min() > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_thin_images_have_boxes(size: tuple[int, int]):
    for top, left, height, width in draw_boxes(size, 50, (0.05, 1.0)):
        assert 0 <= top < top + height <= size[0]
        assert 0 <= left < left + width <= size[1]


def drawn_crops() -> list[CropParameters]:
    """Many crops from a fixed seed."""
    torch.manual_seed(0)
    return draw_crops((375, 500), (0.4, 1.0), 0.5, [0.5] * DRAWN, [0.2] * DRAWN, (0.1, 2.0))


def test_strengths_are_drawn_as_torchvision_draws_them():
    crops = drawn_crops()
    jitter, gaussian = v2.ColorJitter(0.4, 0.4, 0.2, 0.1), v2.GaussianBlur(9, (0.1, 2.0))
    made = [jitter.make_params([]) for _ in range(DRAWN)]
    for step, name in enumerate(("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")):
        drawn = [dict(crop.jitter)[step] for crop in crops if crop.jitter]
        assert ks_2samp(drawn, [float(parameters[name]) for parameters in made]).pvalue > 1e-3, name
    sigmas = [gaussian.make_params([])["sigma"][0] for _ in range(DRAWN)]
    assert ks_2samp([crop.sigma for crop in crops if crop.sigma], sigmas).pvalue > 1e-3


def test_switches_and_orders_have_their_probabilities():
    crops = drawn_crops()
    jittered = [crop.jitter for crop in crops if crop.jitter]
    orders = [tuple(step for step, _ in jitter) for jitter in jittered]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3
    switches: dict[Callable[[CropParameters], bool], float] = {
        lambda crop: bool(crop.jitter): 0.8,
        lambda crop: crop.is_flipped: 0.5,
        lambda crop: crop.is_grey: 0.2,
        lambda crop: crop.sigma > 0: 0.5,
        lambda crop: crop.is_solarized: 0.2,
    }
    for is_on, share in switches.items():
        found = np.mean([is_on(crop) for crop in crops])
        assert found == pytest.approx(share, abs=4 * (share * (1 - share) / DRAWN) ** 0.5)


def test_parameters_follow_the_seed():
    assert drawn_crops() == drawn_crops()


def jpeg(image: Image.Image, **options) -> bytes:
    """A JPEG file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **({"quality": 90} | options))
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_scaled_crops_equal_crops_of_the_whole_image(name: str, mode: str):
    """Photographs with sharp edges, and odd sizes."""
    photograph = Image.fromarray(load_sample_image(name)).crop((0, 0, 639, 427)).convert(mode)
    content, divisors = jpeg(photograph), set()
    whole = decode_image(content)
    for seed in range(24):
        side = (24, 48, 96, 200)[seed % 4]
        output = (side, side - 5)
        torch.manual_seed(seed)
        image, box = decode_for_crop(content, output, (0.2, 1.0))
        torch.manual_seed(seed)
        (drawn,) = draw_boxes((427, 639), 1, (0.2, 1.0))
        divisor = round(whole.width / image.width)
        divisors.add(divisor)
        assert min(box[2] / output[0], box[3] / output[1]) > 1.7 or divisor == 1
        full = tuple(divisor * value for value in box)
        assert max(abs(one - other) for one, other in zip(full, drawn, strict=True)) < divisor
        full = (*full[:2], *inside(full, (427, 639)))
        scaled, reference = (
            cut(functional.pil_to_tensor(decoded), place, output, InterpolationMode.BICUBIC).float()
            for decoded, place in ((image, box), (whole, full))
        )
        assert (scaled - reference).abs().mean() < 2
    assert divisors == {1, 2, 4, 8}


def inside(box: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a box within an image: the last decoded pixel may stand for fewer pixels of the file."""
    return min(box[2], size[0] - box[0]), min(box[3], size[1] - box[1])


def test_scaled_crops_follow_the_seed_and_have_their_size():
    content = jpeg(smooth((301, 402)))

    def crop() -> Tensor:
        torch.manual_seed(4)
        return random_resized_crop({"bytes": content, "path": None}, (32, 24), (0.2, 1.0), InterpolationMode.BICUBIC)

    assert crop().shape == (3, 32, 24)
    assert crop().dtype == torch.uint8
    assert torch.equal(crop(), crop())


def unusual() -> dict[str, bytes | Image.Image]:
    """Images that are decoded whole."""
    image, buffer = smooth((160, 240)), io.BytesIO()
    image.save(buffer, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "turned": jpeg(image, exif=exif),
        "progressive": jpeg(image, progressive=True),
        "CMYK": jpeg(image.convert("CMYK")),
        "PNG": buffer.getvalue(),
        "PIL": image,
    }


@pytest.mark.parametrize("name", unusual())
def test_other_images_are_decoded_whole(name: str):
    source = unusual()[name]
    image, (top, left, height, width) = decode_for_crop(source, (16, 16), (0.2, 1.0))
    assert image.mode == "RGB"
    assert image.tobytes() == decode_image(source).tobytes()
    assert top + height <= image.height
    assert left + width <= image.width


def message(decode: Callable[[], object]) -> str | None:
    """The error of decoding, None where there is none."""
    try:
        decode()
    except ImageDecodingError as error:
        return str(error)
    return None


def test_errors_are_those_of_whole_images(monkeypatch, tmp_path):
    content = jpeg(smooth((200, 300)))
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: len(content) // 2])
    damaged = [content[:length] for length in (0, 2, 100, 700, len(content) // 2, len(content) - 40, len(content) - 2)]
    noisy = bytearray(content)
    noisy[900:1400] = bytes(500)
    sources = [content, bytes(noisy), *damaged, b"text", None, str(path), {"bytes": None, "path": str(path)}]
    messages = [message(lambda source=source: decode_image(source)) for source in sources]
    found = [message(lambda source=source: decode_for_crop(source, (16, 16), (0.2, 1.0))) for source in sources]
    assert found == messages
    assert messages[0] is None
    assert sum(text is not None for text in messages) > 6
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # decoding sets it from the variable
    monkeypatch.setenv(MOST_PIXELS, "50000")
    with pytest.raises(ImageDecodingError, match="more than 50,000 pixels"):
        decode_for_crop(content, (16, 16), (0.2, 1.0))
