"""Batches, mixup and cutmix."""

import pytest
import torch

from hf_vit_suite.data import ImageClassificationCollator

ROWS = [{"pixel_values": torch.full((3, 32, 32), float(label)), "labels": label} for label in (0, 1, 2, 3)]


def test_plain_batch_stacks_rows_in_order():
    batch = ImageClassificationCollator(4)(ROWS)
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_are_mixed_in_the_share_of_the_pixels(mixup: float, cutmix: float):
    collate = ImageClassificationCollator(4, mixup, cutmix)
    kinds = set()
    for _ in range(40):
        batch = collate(ROWS)
        torch.testing.assert_close(batch["labels"].sum(dim=1), torch.ones(4))
        # A row's pixels are all its label's number, so their mean is the mean of the labels' numbers.
        mean = batch["pixel_values"].mean(dim=(1, 2, 3))
        torch.testing.assert_close(mean, batch["labels"] @ torch.arange(4.0), atol=1e-4, rtol=1e-4)
        is_cut = batch["pixel_values"].frac().abs().max() < 1e-4
        kinds.add("cutmix" if is_cut else "mixup")
    assert kinds == {name for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha}


def test_single_image_is_not_mixed_but_has_probabilities():
    batch = ImageClassificationCollator(4, 0.8, 1.0)(ROWS[2:3])
    assert batch["labels"].tolist() == [[0, 0, 1, 0]]
    assert (batch["pixel_values"] == 2).all()
