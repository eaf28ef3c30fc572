"""What a classifier gets right, where it errs, and whether its confidence can be believed."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor
from transformers import EvalPrediction, PretrainedConfig

from ..training.metrics import classification_metrics, cross_entropy

CALIBRATION_BINS = 15
MOST_LABELS_IN_MATRIX = 100


def model_labels(config: PretrainedConfig, label_names: Sequence[str], labels: Sequence[int]) -> Tensor:
    """The data's label numbers as the model numbers the same names.

    Args:
        config: Of a classifier.
        label_names: The data's names.
        labels: An image's number among those, for each image.

    Returns:
        `[images]`.

    Raises:
        ValueError: If the model does not know a label that occurs, or has several of that name in another order.
    """
    if list(label_names) == [name for _, name in sorted(config.id2label.items())]:
        return torch.tensor(labels)
    number_of = {name: number for number, name in config.id2label.items()}
    occurring = [label_names[label] for label in sorted(set(labels))]
    if unknown := [name for name in occurring if name not in number_of]:
        raise ValueError(
            f"the model does not know {len(unknown)} of the data's labels ({', '.join(unknown[:5])}); "
            f"it knows {', '.join(list(number_of)[:5])}, ..."
        )
    times = Counter(config.id2label.values())
    if shared := [name for name in occurring if times[name] > 1]:  # ImageNet's 134 and 517 are both "crane"
        raise ValueError(f"the model has several labels of the same name, which the data's could be: {shared[:5]}")
    return torch.tensor([number_of[label_names[label]] for label in labels])


def classification_report(logits: Tensor, labels: Tensor, names: dict[int, str]) -> dict:
    """Measures predictions.

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
        For each bin its upper `edge`, `share` of the images, mean `confidence` and `accuracy`.
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
