"""Linear probe: linear classifiers on frozen features, trained for many learning rates at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .features import Features

# DINOv2's sweep and length (Oquab et al. 2023, arXiv 2304.07193, appendix B.3): rates for 256 images a step.
LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
BATCH_SIZE = 1024
STEPS = 12_500
REFERENCE_BATCH = 256
MOMENTUM = 0.9
HEAD_STD = 0.01
# Avoids division by zero for constant features.
DEVIATION_EPSILON = 1e-6


def linear_probe(
    train: Features, validation: Features, test: Features, num_labels: int, seed: int = 0, steps: int = STEPS
) -> dict:
    """Trains a linear head for each learning rate and keeps the best one on the validation images.

    Features are standardised with the statistics of the training images, like the batch norm without parameters of
    MAE's linear probe (He et al. 2021, arXiv 2111.06377, appendix A.1).

    Args:
        train: Features to train on.
        validation: Features that select the head.
        test: Features that the head is measured on.
        num_labels: Number of labels.
        seed: Seed of the heads' initial weights and of the batches.
        steps: Steps of SGD with momentum 0.9 on 1,024 images each; the learning rate decays to 0 by a cosine.

    Returns:
        `learning_rate`, `accuracy`, `loss` and, with more than five labels, `top5_accuracy` on the test images, the
        same on the validation images as `validation_...`, and `sweep`, the validation accuracy of each learning rate.
    """
    deviation, mean = torch.std_mean(train.values, dim=0)
    scaled = {
        split: (features.values - mean) / (deviation + DEVIATION_EPSILON)
        for split, features in (("train", train), ("validation", validation), ("test", test))
    }
    heads = train_heads(scaled["train"], train.labels, num_labels, LEARNING_RATES, BATCH_SIZE, steps, seed)
    with torch.inference_mode():
        logits = {
            split: heads(scaled[split]).unflatten(1, (len(LEARNING_RATES), num_labels))
            for split in ("validation", "test")
        }
    hits = logits["validation"].argmax(dim=-1) == validation.labels.unsqueeze(1)
    accuracies = hits.double().mean(dim=0).tolist()
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    on_validation = head_metrics(logits["validation"][:, best], validation.labels)
    return {
        "learning_rate": LEARNING_RATES[best],
        **head_metrics(logits["test"][:, best], test.labels),
        **{f"validation_{name}": value for name, value in on_validation.items()},
        "sweep": dict(zip(LEARNING_RATES, accuracies, strict=True)),
    }


def head_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, cross-entropy and, with more than five labels, top-5 accuracy.

    Args:
        logits: `[images, labels]`.
        labels: `[images]`.
    """
    hits = logits.topk(min(5, logits.shape[1])).indices == labels.unsqueeze(1)
    metrics = {
        "accuracy": hits[:, 0].double().mean().item(),
        "loss": F.cross_entropy(logits, labels).item(),
    }
    if logits.shape[1] > 5:
        metrics["top5_accuracy"] = hits.any(dim=1).double().mean().item()
    return metrics


def train_heads(
    values: Tensor,
    labels: Tensor,
    num_labels: int,
    learning_rates: Sequence[float],
    batch_size: int,
    steps: int,
    seed: int,
) -> nn.Linear:
    """One linear layer with a head per learning rate, each trained independently.

    Args:
        values: `[images, width]`.
        labels: `[images]`.
        num_labels: Number of labels.
        learning_rates: Learning rates for 256 images per step, scaled to the batch.
        batch_size: Images per step.
        steps: Number of steps.
        seed: Seed of the initial weights and of the batches.

    Returns:
        A layer from `width` to `learning_rates * num_labels`, head by head.
    """
    generator = torch.Generator().manual_seed(seed)
    heads = nn.Linear(values.shape[1], len(learning_rates) * num_labels)
    nn.init.normal_(heads.weight, std=HEAD_STD, generator=generator)
    nn.init.zeros_(heads.bias)
    # SGD's step is linear in the gradient, so a factor of a head's loss acts as its learning rate.
    rates = torch.tensor(learning_rates) * batch_size / REFERENCE_BATCH
    optimizer = torch.optim.SGD(heads.parameters(), lr=1.0, momentum=MOMENTUM)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(values), (batch_size,), generator=generator)
        logits = heads(values[batch]).unflatten(1, (len(learning_rates), num_labels))
        losses = F.cross_entropy(
            logits.transpose(1, 2), labels[batch].unsqueeze(1).expand(-1, len(rates)), reduction="none"
        )  # (B, K, rates) and (B, rates) -> (B, rates)
        optimizer.zero_grad()
        (losses.mean(dim=0) @ rates).backward()
        optimizer.step()
        scheduler.step()
    return heads
