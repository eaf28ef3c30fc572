"""Figures of a classifier."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score
from transformers import EvalPrediction


def cross_entropy(prediction: EvalPrediction) -> float:
    """Mean cross-entropy of logits `[images, labels]`; Trainer's own loss weighs uneven batches wrongly."""
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
