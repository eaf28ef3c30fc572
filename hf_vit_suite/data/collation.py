"""Rows to batches, with mixup and cutmix."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2


class ImageClassificationCollator:
    """Stacks transformed rows and, where asked for, mixes images of the batch.

    With both kinds of mixing on, each batch draws one of them with equal chance.

    Args:
        num_labels: Number of labels.
        mixup_alpha: Alpha of mixup (Zhang et al. 2017, arXiv 1710.09412); 0 is off.
        cutmix_alpha: Alpha of cutmix (Yun et al. 2019, arXiv 1905.04899); 0 is off.
    """

    def __init__(self, num_labels: int, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0):
        self.num_labels = num_labels
        mixers = []
        if mixup_alpha:
            mixers.append(v2.MixUp(alpha=mixup_alpha, num_classes=num_labels))
        if cutmix_alpha:
            mixers.append(v2.CutMix(alpha=cutmix_alpha, num_classes=num_labels))
        self.mix = v2.RandomChoice(mixers) if mixers else None

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Collates.

        Args:
            rows: Each `{"pixel_values": [channels, height, width], "labels": int}`.

        Returns:
            `pixel_values` `[batch, channels, height, width]` and `labels`, `[batch]` class numbers or, with mixing on,
            `[batch, labels]` probabilities.
        """
        pixel_values = torch.stack([row["pixel_values"] for row in rows])
        labels = torch.tensor([row["labels"] for row in rows])
        if self.mix is not None and len(rows) > 1:
            pixel_values, labels = self.mix(pixel_values, labels)
        elif self.mix is not None:  # there is nothing to mix a single image with
            labels = F.one_hot(labels, self.num_labels).to(pixel_values.dtype)
        return {"pixel_values": pixel_values, "labels": labels}
