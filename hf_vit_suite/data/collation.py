"""Collates rows to batches, and mixes images within a batch (mixup, cutmix)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


def collate_images(rows: Sequence[dict]) -> dict[str, Tensor]:
    """Stacks transformed rows.

    Args:
        rows: Rows `{"pixel_values": [channels, height, width], "labels": int or a list of floats}`.

    Returns:
        `pixel_values` `[batch, channels, height, width]` and `labels` `[batch]`, of lists `[batch, labels]`.
    """
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


class ImageMixer:
    """Applies mixup and cutmix; if both are enabled, each batch draws one with equal probability.

    Args:
        num_labels: Number of labels.
        mixup_alpha: Alpha of mixup (Zhang et al. 2017, arXiv 1710.09412); 0 disables it.
        cutmix_alpha: Alpha of cutmix (Yun et al. 2019, arXiv 1905.04899); 0 disables it.
    """

    def __init__(self, num_labels: int, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0):
        self.num_labels = num_labels
        mixers = []
        if mixup_alpha:
            mixers.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_labels))
        if cutmix_alpha:
            mixers.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_labels))
        self.mix = v2.RandomChoice(mixers) if mixers else None

    def __call__(self, pixel_values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes each image with another image of the batch.

        Args:
            pixel_values: `[batch, channels, height, width]`.
            labels: `[batch]` class numbers, or `[batch, labels]` multi-hot.

        Returns:
            Images of the same shape, and label probabilities `[batch, labels]`; the unchanged input if both are off.
        """
        if self.mix is None:
            return pixel_values, labels
        if len(labels) == 1:  # a single image has no partner to mix with
            is_number = labels.ndim == 1
            return pixel_values, F.one_hot(labels, self.num_labels).to(pixel_values.dtype) if is_number else labels
        return self.mix(pixel_values, labels)
