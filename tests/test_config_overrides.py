"""Image sizes and overrides of a config, as people write them."""

from typing import Any

import numpy as np
import pytest

from hf_vit_suite.config_overrides import height_and_width, parse_image_size, parse_overrides


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (224, 224),
        ("224", 224),
        ("192x256", [192, 256]),
        (" 192 X 256 ", [192, 256]),
        ("192\u00d7256", [192, 256]),
        ("192,256", [192, 256]),
        ("[192, 256]", [192, 256]),
        ((192, 256), [192, 256]),
        ([224, 224], 224),
        (np.int64(224), 224),
    ],
)
def test_image_size_is_a_side_or_height_and_width(given: Any, expected: int | list[int]):
    assert parse_image_size(given) == expected
    height, width = height_and_width(parse_image_size(given))
    assert [height, width] == (expected if isinstance(expected, list) else [expected, expected])


@pytest.mark.parametrize(
    "given",
    ["", "x", "192x", "192by256", "1x2x3", "-16", "0", "0x16", "16.0", 16.5, 0, -16, True, (), (1, 2, 3), [16, "a"]],
)
def test_other_sizes_are_refused_with_both_forms(given: Any):
    with pytest.raises(ValueError, match="--image_size must be a side such as 224, or HEIGHTxWIDTH such as 192x256"):
        parse_image_size(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("image_size=[16,32],patch_size=8", {"image_size": [16, 32], "patch_size": 8}),
        ("image_size=16x32,patch_size=8", {"image_size": [16, 32], "patch_size": 8}),
        ("patch_size=8,vision_config.image_size=16x32", {"patch_size": 8, "vision_config": {"image_size": [16, 32]}}),
        ({"vision_config": {"image_size": "16x32"}}, {"vision_config": {"image_size": [16, 32]}}),
        ({"image_size": (16, 32)}, {"image_size": (16, 32)}),
    ],
)
def test_overrides_take_oblong_sizes(given: Any, expected: dict):
    assert parse_overrides(given) == expected


def test_an_override_that_is_no_size_is_named():
    with pytest.raises(ValueError, match=r"^vision_config.image_size must be a side .* got '16by32'"):
        parse_overrides("vision_config.image_size=16by32")
