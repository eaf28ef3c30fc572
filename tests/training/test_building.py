"""Image processors and crops of models that are trained at another input size."""

import pytest
import torch
from PIL import Image
from references_of_training import tiny_classifier
from transformers import BitImageProcessor, CLIPImageProcessor, ViTImageProcessor

from hf_vit_suite.data import evaluation_transform, input_size, multi_crop_transform, training_transform
from hf_vit_suite.training.building import set_input_size
from hf_vit_suite.training.dino import DINOMethodArguments, local_size

SQUEEZED = {"size": {"height": 16, "width": 16}}
CROPPED = {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}}


def processors():
    """Image processors that squeeze, and that crop by the shorter side or after squeezing."""
    return [
        ViTImageProcessor(**SQUEEZED),
        BitImageProcessor(**CROPPED),
        CLIPImageProcessor(**{**CROPPED, "size": {"height": 20, "width": 24}}),
    ]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("size", [[8, 48], [48, 8], [16, 24], 32])
def test_processors_yield_the_new_size_without_padding(number: int, size: int | list[int]):
    processor = processors()[number]
    height, width = size if isinstance(size, list) else (size, size)
    set_input_size(processor, size, tiny_classifier().config)
    assert input_size(processor) == (height, width)
    for shape in ((90, 20), (20, 90), (33, 33)):
        image = Image.new("RGB", shape, "white")
        for transform in (evaluation_transform(processor), training_transform(processor, random_resized_crop=False)):
            pixels = transform(image)
            assert pixels.shape == (3, height, width)
            assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels)), "a padded border is not white"


@pytest.mark.parametrize(
    ("number", "size", "expected"),
    [
        (1, 32, {"shortest_edge": 40}),
        (1, [32, 16], {"height": 40, "width": 20}),
        (2, [32, 16], {"height": 40, "width": 24}),
        (2, 32, {"height": 40, "width": 48}),
    ],
)
def test_a_crop_keeps_its_fraction_of_the_resized_image(number: int, size: int | list[int], expected: dict[str, int]):
    processor = processors()[number]
    set_input_size(processor, size, tiny_classifier().config)
    assert {name: processor.size[name] for name in expected} == expected


@pytest.mark.parametrize("size", [12, [16, 20], [4, 16]])
def test_sizes_that_the_patches_do_not_divide_are_refused_with_the_nearest(size: int | list[int]):
    with pytest.raises(ValueError, match=r"--image_size must be a multiple of patch_size 8, got .*: give \d+x\d+$"):
        set_input_size(ViTImageProcessor(**SQUEEZED), size, tiny_classifier().config)


@pytest.mark.parametrize(
    ("given", "expected"), [(None, (8, 8)), ("12x20", (12, 20)), ((4, 8), (4, 8)), ("8", (8, 8)), (12, (12, 12))]
)
def test_local_crops_are_squares_unless_their_size_is_oblong(given, expected: tuple[int, int]):
    method = DINOMethodArguments(local_image_size=given)
    size = local_size(method, (16, 32), 4)
    assert size == expected
    processor = ViTImageProcessor(size={"height": 16, "width": 32})
    rows = multi_crop_transform(processor, size, 2, patch_size=4)({"image": [Image.new("RGB", (30, 30))]})
    assert rows["pixel_values"][0].shape == (2, 3, 16, 32)
    assert rows["local_pixel_values"][0].shape == (2, 3, *expected)
    assert rows["bool_masked_pos"][0].shape == (2, 4 * 8)


@pytest.mark.parametrize("given", ["10x8", (8, 6), "2x4"])
def test_local_crops_that_the_patches_do_not_divide_are_refused(given):
    with pytest.raises(ValueError, match=r"--local_image_size must be a multiple of patch_size 4, got \d+ x \d+"):
        local_size(DINOMethodArguments(local_image_size=given), (16, 32), 4)
