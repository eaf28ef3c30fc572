"""Crops augmented together: each operation is torchvision's, and so are the distributions of its parameters."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from hf_vit_suite.data.batch_augmentation import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    SATURATION,
    CropParameters,
    augment,
    blur,
    cut,
    draw_boxes,
    draw_parameters,
)

DRAWN = 2000
SIZES = [(33, 20), (16, 16), (1, 7)]


def crops(number: int, size: tuple[int, int]) -> Tensor:
    """8-bit noise in colours, the first without colour."""
    pixels = torch.randint(0, 256, (number, 3, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    pixels[0] = pixels[0, :1]
    return pixels


def plain(number: int) -> dict[str, Tensor]:
    """Parameters that change nothing."""
    return {
        "flip": torch.zeros(number, dtype=torch.bool),
        "order": torch.full((number, 4), 4),
        "change": torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(number, 1),
        "grey": torch.zeros(number, dtype=torch.bool),
        "sigma": torch.zeros(number),
        "solarize": torch.zeros(number, dtype=torch.bool),
    }


def expected_jitter(pixels: Tensor, order: list[int], change: list[float]) -> Tensor:
    """torchvision's jitter of one crop."""
    steps = {
        BRIGHTNESS: functional.adjust_brightness,
        CONTRAST: functional.adjust_contrast,
        SATURATION: functional.adjust_saturation,
        HUE: functional.adjust_hue,
    }
    for step in order:
        pixels = steps[step](pixels, change[step])
    return pixels


@pytest.mark.parametrize("size", SIZES)
def test_jitter_equals_torchvisions_in_every_order(size: tuple[int, int]):
    random = np.random.default_rng(0)
    orders = torch.tensor([random.permutation(4).tolist() for _ in range(24)])
    change = torch.tensor(np.c_[random.uniform(0.6, 1.4, (24, 3)), random.uniform(-0.1, 0.1, 24)], dtype=torch.float32)
    whole = crops(24, size)
    found = augment(whole, CropParameters(**plain(24) | {"order": orders, "change": change}))
    for index in range(24):
        expected = expected_jitter(whole[index] / 255, orders[index].tolist(), change[index].tolist())
        torch.testing.assert_close(found[index], expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("flip", functional.horizontal_flip),
        ("grey", lambda pixels: functional.rgb_to_grayscale(pixels, num_output_channels=3)),
        ("solarize", lambda pixels: functional.solarize(pixels, 128 / 255)),
    ],
)
def test_switches_equal_torchvisions_and_touch_their_crops_alone(name: str, expected, size: tuple[int, int]):
    whole, on = crops(4, size), torch.tensor([True, False, True, True])
    found = augment(whole, CropParameters(**plain(4) | {name: on}))
    for index, is_on in enumerate(on.tolist()):
        pixels = whole[index] / 255
        torch.testing.assert_close(found[index], expected(pixels) if is_on else pixels, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_blur_equals_torchvisions_for_each_crops_own_sigma(size: tuple[int, int]):
    whole, sigmas = crops(4, size), [0.1, 0.0, 2.0, 0.7]
    found = augment(whole, CropParameters(**plain(4) | {"sigma": torch.tensor(sigmas)}))
    side = min(9, 2 * min(size) - 1)
    for index, sigma in enumerate(sigmas):
        pixels = whole[index] / 255
        expected = functional.gaussian_blur(pixels, [side, side], [sigma, sigma]) if sigma else pixels
        torch.testing.assert_close(found[index], expected, rtol=1e-5, atol=1e-6)


def test_blur_is_as_strong_as_pillows():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    expected = functional.to_image(image.filter(ImageFilter.GaussianBlur(radius=2))).float()[:, 8:-8, 8:-8]
    found = blur(functional.to_image(image).float()[None], torch.tensor([2.0]))[0, :, 8:-8, 8:-8]
    assert (found - expected).abs().mean() < 2  # of 255 levels


def test_cut_equals_torchvisions_crop_and_resize():
    image = functional.to_image(
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3)).astype(np.uint8))
    )
    boxes = [(0, 0, 50, 70), (3, 9, 20, 31), (49, 69, 1, 1), (10, 10, 24, 16)]
    for interpolation in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR, InterpolationMode.NEAREST):
        found = cut(image, boxes, (24, 16), interpolation)
        for crop, box in zip(found, boxes, strict=True):
            assert torch.equal(crop, functional.resized_crop(image, *box, [24, 16], interpolation))


def test_parameters_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    drawn = draw_parameters(0.5, [0.5] * DRAWN, [0.2] * DRAWN, (0.1, 2.0))
    jitter = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
    made = [jitter.make_params([]) for _ in range(DRAWN)]
    names = {
        BRIGHTNESS: "brightness_factor",
        CONTRAST: "contrast_factor",
        SATURATION: "saturation_factor",
        HUE: "hue_factor",
    }
    for step, name in names.items():
        reference = [float(parameters[name]) for parameters in made]
        assert ks_2samp(drawn.change[:, step].numpy(), reference).pvalue > 1e-3, name
    sigma = v2.GaussianBlur(9, (0.1, 2.0))
    reference = [sigma.make_params([])["sigma"][0] for _ in range(DRAWN)]
    assert ks_2samp(drawn.sigma[drawn.sigma > 0].numpy(), reference).pvalue > 1e-3
    jittered = drawn.order[:, 0] < 4
    places = (drawn.order[jittered] == HUE).sum(dim=0).numpy()
    assert chisquare(places).pvalue > 1e-3
    shares = {0.8: jittered, 0.5: drawn.flip, 0.2: drawn.grey}
    for share, switch in [*shares.items(), (0.5, drawn.sigma > 0), (0.2, drawn.solarize)]:
        assert switch.float().mean() == pytest.approx(share, abs=4 * (share * (1 - share) / DRAWN) ** 0.5)


@pytest.mark.parametrize(("size", "scale"), [((375, 500), (0.05, 0.4)), ((200, 40), (0.4, 1.0)), ((3, 900), (0.4, 1))])
def test_boxes_are_drawn_as_torchvision_draws_them(size: tuple[int, int], scale: tuple[float, float]):
    torch.manual_seed(0)
    drawn = np.array(draw_boxes(size, DRAWN, scale))
    crop = v2.RandomResizedCrop(8, scale=scale)
    image = torch.empty(3, *size)
    made = [crop.make_params([image]) for _ in range(DRAWN)]
    for column, name in enumerate(("top", "left", "height", "width")):
        assert ks_2samp(drawn[:, column], [box[name] for box in made]).pvalue > 1e-3, name
    assert (drawn[:, 0] + drawn[:, 2] <= size[0]).all()
    assert (drawn[:, 1] + drawn[:, 3] <= size[1]).all()
    assert drawn[:, 2:].min() > 0


def test_what_is_drawn_follows_the_seed():
    def draw() -> tuple:
        torch.manual_seed(3)
        return draw_boxes((30, 40), 5, (0.1, 0.5)), draw_parameters(0.5, [0.5] * 5, [0.2] * 5, (0.1, 2.0)).change

    (boxes, change), (again, same) = draw(), draw()
    assert boxes == again
    assert torch.equal(change, same)
