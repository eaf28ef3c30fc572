"""Crops and masks of DINO."""

import numpy as np
import pytest
import torch
from lightly.models.utils import random_block_mask
from PIL import Image
from transformers import ViTImageProcessor

from hf_vit_suite.data import multi_crop_transform
from hf_vit_suite.data.batch_augmentation import GREY, JITTER, JITTERED
from hf_vit_suite.data.multi_crop import block_mask, random_mask


def picture(width: int = 60, height: int = 40) -> Image.Image:
    """Noise in colours."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8))


@pytest.fixture
def processor() -> ViTImageProcessor:
    """Of images of 32 x 48 pixels."""
    return ViTImageProcessor(size={"height": 32, "width": 48})


def test_crops_have_their_sizes_and_differ(processor):
    rows = multi_crop_transform(processor, 16, 5, patch_size=8)({"image": [picture(), picture(20, 30)]})
    assert set(rows) == {"pixel_values", "local_pixel_values", "bool_masked_pos"}
    assert [crops.shape for crops in rows["pixel_values"]] == [(2, 3, 32, 48)] * 2
    assert [crops.shape for crops in rows["local_pixel_values"]] == [(5, 3, 16, 16)] * 2
    assert [mask.shape for mask in rows["bool_masked_pos"]] == [(2, 24)] * 2
    crops = rows["local_pixel_values"][0]
    assert all(not torch.equal(crops[i], crops[j]) for i in range(5) for j in range(i))


def test_no_local_crops_and_no_masks_leave_their_columns_out(processor):
    assert set(multi_crop_transform(processor, 16, 0)({"image": [picture()]})) == {"pixel_values"}


def test_local_crops_show_less_than_global_ones(processor):
    """Of a picture whose colour grows with the column, the spread of a crop tells its width."""
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 200).astype(np.uint8), (200, 1))).convert("RGB")
    rows = multi_crop_transform(processor, 16, 20, local_scale=0.05, global_scale=0.4)({"image": [ramp]})
    widths = {}
    for name in ("pixel_values", "local_pixel_values"):
        crops = rows[name][0].mean(dim=(1, 2))
        widths[name] = (crops.amax(dim=1) - crops.amin(dim=1)).mean()
    assert widths["local_pixel_values"] < 0.8 * widths["pixel_values"]


def test_augmentation_is_the_papers(processor):
    """Probabilities and strengths of its code: DataAugmentationDINO in main_dino.py."""
    transform = multi_crop_transform(processor, 16)
    whole, local = transform.global_crops, transform.local_crops
    assert (whole.scale, whole.flip, whole.blur, whole.solarize) == ((0.4, 1.0), 0.5, (1.0, 0.1), (0.0, 0.2))
    assert (local.scale, local.flip, local.blur, local.solarize) == ((0.05, 0.4), 0.5, (0.5,) * 8, (0.0,) * 8)
    assert (JITTER, JITTERED, GREY) == ((0.4, 0.4, 0.2, 0.1), 0.8, 0.2)


def test_blur_is_the_papers_at_its_size_and_weaker_on_small_pictures():
    def sigma(side: int) -> tuple[float, float]:
        processor = ViTImageProcessor(size={"height": side, "width": side})
        return multi_crop_transform(processor, 16).global_crops.sigma

    assert sigma(224) == pytest.approx((0.1, 2.0))
    assert sigma(32) == pytest.approx((0.1 / 7, 2.0 / 7))


def test_crops_are_normalised(processor):
    """A black picture stays black under every change of a local crop."""
    processor.image_mean, processor.image_std = [0.5, 0.4, 0.3], [0.1, 0.2, 0.3]
    black = Image.new("RGB", (30, 30))
    row = multi_crop_transform(processor, 16, 2)({"image": [black]})["local_pixel_values"][0]
    torch.testing.assert_close(row.mean(dim=(0, 2, 3)), torch.tensor([-5.0, -2.0, -1.0]))
    processor.do_normalize = False
    assert multi_crop_transform(processor, 16, 2)({"image": [black]})["local_pixel_values"][0].abs().max() == 0


@pytest.mark.parametrize(("local", "whole"), [(0.5, 0.4), (0.0, 0.4), (0.1, 1.0)])
def test_shares_out_of_order_are_refused(processor, local: float, whole: float):
    with pytest.raises(ValueError, match="local_crop_scale < global_crop_scale"):
        multi_crop_transform(processor, 16, local_scale=local, global_scale=whole)


@pytest.mark.parametrize("wanted", [0, 3, 20, 60, 98])
def test_blocks_mask_as_many_patches_as_lightlys(wanted: int):
    """Never more than wanted, and on average what lightly's generator of the same algorithm masks."""
    found = torch.stack([block_mask((14, 14), wanted).sum() for _ in range(200)]).float()
    assert found.max() <= wanted
    if wanted >= 4:
        share = wanted / 196
        reference = random_block_mask((200, 14, 14), batch_mask_ratio=1.0, min_image_mask_ratio=share,
                                      max_image_mask_ratio=share).flatten(1).sum(1).float()  # fmt: skip
        assert found.mean() == pytest.approx(reference.mean().item(), rel=0.05)


def test_masked_patches_lie_in_blocks():
    """Most masked patches have a masked neighbour, which scattered ones of that share have not."""
    masks = torch.stack([block_mask((14, 14), 20) for _ in range(50)])
    beside = masks[:, :, 1:] & masks[:, :, :-1]
    scattered = torch.rand(50, 14, 14) < masks.float().mean()
    assert beside.sum() > 3 * (scattered[:, :, 1:] & scattered[:, :, :-1]).sum()


def test_half_of_the_crops_are_masked_by_a_tenth_to_a_half():
    counts = torch.stack([random_mask((14, 14)).sum() for _ in range(300)])
    assert 0.4 < (counts == 0).float().mean() < 0.6
    masked = counts[counts > 0] / 196
    assert masked.max() <= 0.5
    assert 0.2 < masked.mean() < 0.35
