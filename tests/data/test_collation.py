"""Batches, mixup and cutmix."""

import pytest
import torch

from hf_vit_suite.data import ImageMixer, collate_images

ROWS = [{"pixel_values": torch.full((3, 32, 32), float(label)), "labels": label} for label in (0, 1, 2, 3)]


def test_plain_batch_stacks_rows_in_order():
    batch = collate_images(ROWS)
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_are_mixed_in_the_share_of_the_pixels(mixup: float, cutmix: float):
    mixer, batch = ImageMixer(4, mixup, cutmix), collate_images(ROWS)
    kinds = set()
    for _ in range(40):
        images, labels = mixer(**batch)
        torch.testing.assert_close(labels.sum(dim=1), torch.ones(4))
        # A row's pixels are all its label's number, so their mean is the mean of the labels' numbers.
        mean = images.mean(dim=(1, 2, 3))
        torch.testing.assert_close(mean, labels @ torch.arange(4.0), atol=1e-4, rtol=1e-4)
        is_cut = images.frac().abs().max() < 1e-4
        kinds.add("cutmix" if is_cut else "mixup")
    assert kinds == {name for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha}


def test_single_image_is_not_mixed_but_has_probabilities():
    images, labels = ImageMixer(4, 0.8, 1.0)(**collate_images(ROWS[2:3]))
    assert labels.tolist() == [[0, 0, 1, 0]]
    assert (images == 2).all()


def test_mixer_that_is_off_returns_the_batch_itself():
    batch = collate_images(ROWS)
    images, labels = ImageMixer(4)(**batch)
    assert images is batch["pixel_values"]
    assert labels is batch["labels"]
