"""Metrics of classifiers with any number of labels an image: average precision, F1, a threshold for each label."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, precision_recall_fscore_support
from torch import Tensor
from transformers import EvalPrediction

from ..inference.prediction import DEFAULT_THRESHOLD


def binary_cross_entropy(prediction: EvalPrediction) -> float:
    """Mean over images and labels of the binary cross-entropy of logits `[images, labels]`."""
    logits, labels = torch.from_numpy(prediction.predictions), torch.from_numpy(prediction.label_ids)
    return F.binary_cross_entropy_with_logits(logits.double(), labels.double()).item()


def multi_label_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Mean average precision, and F1 at a probability of 0.5; each from 0 to 1.

    Args:
        prediction: Logits and multi-hot labels, `[images, labels]` each.
    """
    scores, labels = probabilities(prediction.predictions), prediction.label_ids > 0.5
    predicted = scores >= DEFAULT_THRESHOLD
    return {
        "mAP": mean_average_precision(scores, labels),
        "f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(labels, predicted, average="micro", zero_division=0)),
    }


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid of logits in float64."""
    return torch.from_numpy(logits).double().sigmoid().numpy()


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of each label `[labels]`: the sum of precisions weighted by the increase of recall.

    It is NaN for a label that no image has.
    """
    return np.array(
        [
            average_precision_score(labels[:, number], scores[:, number]) if labels[:, number].any() else np.nan
            for number in range(labels.shape[1])
        ]
    )


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the labels' average precisions, without labels that no image has; 0 if there are none."""
    values = average_precisions(scores, labels)
    return 0.0 if np.isnan(values).all() else float(np.nanmean(values))


def best_thresholds(prediction: EvalPrediction) -> list[float]:
    """The probability from which on each label is predicted: the one with the highest F1.

    Of equal ones the highest counts, which predicts fewest images; it lies half-way to the next lower probability. A
    label that no image has, or every image, keeps 0.5.

    Args:
        prediction: Logits and multi-hot labels of the validation images, `[images, labels]` each.
    """
    scores, labels = probabilities(prediction.predictions), prediction.label_ids > 0.5
    return [best_threshold(scores[:, number], labels[:, number]) for number in range(labels.shape[1])]


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """As `best_thresholds`, of one label `[images]`."""
    if labels.all() or not labels.any():
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    total = precision[:-1] + recall[:-1]
    f1 = 2 * precision[:-1] * recall[:-1] / np.where(total > 0, total, 1)
    best = len(f1) - 1 - int(f1[::-1].argmax())
    below = thresholds[best - 1] if best else 0.0
    return float((thresholds[best] + below) / 2)


def multi_label_report(logits: Tensor, labels: Tensor, names: dict[int, str], thresholds: list[float] | None) -> dict:
    """Metrics of logits.

    Args:
        logits: `[images, labels]`.
        labels: Multi-hot, `[images, labels]`.
        names: Labels by number.
        thresholds: The probability from which on each label is predicted; default 0.5.

    Returns:
        `mAP`, `f1_macro`, `f1_micro`, `loss` (binary cross-entropy), and `per_class` (average precision, precision,
        recall, F1, threshold, images), both F1 at the thresholds.
    """
    prediction = EvalPrediction(logits.numpy(), labels.numpy())
    scores, is_there = probabilities(prediction.predictions), prediction.label_ids > 0.5
    thresholds = thresholds or [DEFAULT_THRESHOLD] * len(names)
    predicted = scores >= np.array(thresholds)
    measured = precision_recall_fscore_support(is_there, predicted, average=None, zero_division=0)
    rows = zip(*(values.tolist() for values in (average_precisions(scores, is_there), *measured)), strict=True)
    return {
        "mAP": mean_average_precision(scores, is_there),
        "f1_macro": float(f1_score(is_there, predicted, average="macro", zero_division=0)),
        "f1_micro": float(f1_score(is_there, predicted, average="micro", zero_division=0)),
        "loss": binary_cross_entropy(prediction),
        "per_class": {
            names[number]: {
                "average_precision": average if images else None,
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "threshold": thresholds[number],
                "images": int(images),
            }
            for number, (average, precision, recall, f1, images) in enumerate(rows)
        },
    }
