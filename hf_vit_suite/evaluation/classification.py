"""Metrics of a classifier: accuracy, F1, cross-entropy, per-class scores and calibration."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch import Tensor
from transformers import EvalPrediction, PretrainedConfig

CALIBRATION_BINS = 15
MOST_LABELS_IN_MATRIX = 100


def cross_entropy(prediction: EvalPrediction) -> float:
    """Mean cross-entropy of logits `[images, labels]`; Trainer's own weighs a short last batch more."""
    logits, labels = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
    return F.cross_entropy(logits.double(), labels).item()


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, macro F1 and, with more than five labels, top-5 accuracy; each from 0 to 1.

    Args:
        prediction: Logits `[images, labels]` and label numbers `[images]`.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    predicted = logits.argmax(axis=-1)
    metrics = {
        "accuracy": accuracy_score(labels, predicted),
        "f1_macro": f1_score(labels, predicted, average="macro", zero_division=0),
    }
    if logits.shape[-1] > 5:
        metrics["top5_accuracy"] = top_k_accuracy_score(labels, logits, k=5, labels=np.arange(logits.shape[-1]))
    return {name: float(value) for name, value in metrics.items()}


def model_labels(
    config: PretrainedConfig, label_names: Sequence[str], labels: Sequence[int] | Sequence[list[float]]
) -> Tensor:
    """The data's labels as the model numbers the same names.

    Args:
        config: Config of a classifier.
        label_names: The data's label names.
        labels: Label number of each image in the data, or a list of a number for each label.

    Returns:
        `[images]`, of lists `[images, labels]`.

    Raises:
        ValueError: If the model does not know a label that occurs, or has several of that name in another order.
    """
    if list(label_names) == [name for _, name in sorted(config.id2label.items())]:
        return torch.tensor(labels)
    number_of = {name: number for number, name in config.id2label.items()}
    table = torch.tensor(labels)
    present = table.any(dim=0).nonzero().flatten().tolist() if table.ndim == 2 else sorted(set(labels))
    occurring = [label_names[label] for label in present]
    if unknown := [name for name in occurring if name not in number_of]:
        raise ValueError(
            f"the model does not know {len(unknown)} of the data's labels ({', '.join(unknown[:5])}); "
            f"it knows {', '.join(list(number_of)[:5])}, ..."
        )
    times = Counter(config.id2label.values())
    if shared := [name for name in occurring if times[name] > 1]:  # ImageNet's 134 and 517 are both "crane"
        raise ValueError(f"the model has several labels of the same name, which the data's could be: {shared[:5]}")
    if table.ndim == 1:
        return torch.tensor([number_of[label_names[label]] for label in labels])
    placed = torch.zeros(len(table), len(config.id2label))
    placed[:, [number_of[label_names[label]] for label in present]] = table[:, present]
    return placed


def classification_report(logits: Tensor, labels: Tensor, names: dict[int, str]) -> dict:
    """Metrics of logits.

    Args:
        logits: `[images, labels]`.
        labels: `[images]`, the true labels' numbers.
        names: Labels by number.

    Returns:
        `accuracy`, `top5_accuracy` with more than five labels, `f1_macro`, `loss` (cross-entropy),
        `calibration_error`, `calibration` (its bins), `per_class` (precision, recall, F1, images of each label that
        occurs), and with at most 100 labels `confusion_matrix`, rows true.
    """
    prediction = EvalPrediction(logits.numpy(), labels.numpy())
    predicted, occurring = logits.argmax(dim=-1).numpy(), sorted(set(labels.tolist()))
    scores = precision_recall_fscore_support(labels.numpy(), predicted, labels=occurring, zero_division=0)
    bins = calibration_bins(logits, labels)
    report = {
        **classification_metrics(prediction),
        "loss": cross_entropy(prediction),
        "calibration_error": sum(row["share"] * abs(row["accuracy"] - row["confidence"]) for row in bins),
        "calibration": bins,
        "per_class": {
            names[number]: {"precision": precision, "recall": recall, "f1": f1, "images": int(images)}
            for number, precision, recall, f1, images in zip(
                occurring, *(score.tolist() for score in scores), strict=True
            )
        },
    }
    if len(names) <= MOST_LABELS_IN_MATRIX:
        report["confusion_matrix"] = confusion_matrix(labels, predicted, labels=range(len(names))).tolist()
    return report


def calibration_bins(logits: Tensor, labels: Tensor, bins: int = CALIBRATION_BINS) -> list[dict[str, float]]:
    """Accuracy by confidence, in bins of equal width (Guo et al. 2017, arXiv 1706.04599, eq. 3).

    Args:
        logits: `[images, labels]`.
        labels: `[images]`.
        bins: Number of bins; empty ones are left out.

    Returns:
        For each bin its upper `edge`, `share` (fraction of the images), mean `confidence` and `accuracy`.
    """
    confidence, predicted = (values.numpy() for values in logits.double().softmax(dim=-1).max(dim=-1))
    is_right = predicted == labels.numpy()
    edges = np.linspace(0, 1, bins + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)  # a bin holds its upper edge
    return [
        {
            "edge": edges[number + 1].item(),
            "share": (place == number).mean().item(),
            "confidence": confidence[place == number].mean().item(),
            "accuracy": is_right[place == number].mean().item(),
        }
        for number in range(bins)
        if (place == number).any()
    ]
