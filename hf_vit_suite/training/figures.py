"""Figures of a finished run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from ..drawing import AS_WRITTEN

MOST_LABELS_SHOWN = 30
PRETRAINING_CURVES = {
    "loss": "training loss",
    "knn_accuracy": "k-NN accuracy",
    "teacher_entropy": "teacher's entropy (nats)",
    "in_batch_accuracy": "accuracy within the batch",
    "temperature": "temperature",
    "center_divergence": "divergence from the centre (nats)",
}


def training_curves(log_history: Sequence[dict]) -> Figure:
    """Losses and validation accuracy by epoch, from Trainer's log."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss_axis, accuracy_axis = figure.subplots(1, 2)
    for axis, name, label in (
        (loss_axis, "loss", "training"),
        (loss_axis, "eval_loss", "validation"),
        (accuracy_axis, "eval_accuracy", "validation"),
    ):
        points = [(entry["epoch"], entry[name]) for entry in log_history if name in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label)
    for axis, title in ((loss_axis, "cross-entropy"), (accuracy_axis, "accuracy")):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return figure


def pretraining_curves(log_history: Sequence[dict]) -> Figure:
    """Training loss, and what else a method logs, by step, from Trainer's log."""
    curves = {
        name: [(entry["step"], entry[name]) for entry in log_history if name in entry] for name in PRETRAINING_CURVES
    }
    drawn = [name for name, points in curves.items() if points] or ["loss"]
    figure = Figure(figsize=(4.2 * len(drawn), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(drawn), squeeze=False).flat, drawn, strict=True):
        axis.plot([step for step, _ in curves[name]], [value for _, value in curves[name]])
        axis.set(title=PRETRAINING_CURVES[name], xlabel="step")
        axis.grid(alpha=0.3)
    return figure


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Confusion matrix; row true, column predicted, each row as shares of 1. Over 30 labels are not named.

    Args:
        labels: True label numbers `[images]`.
        predicted: Predicted label numbers `[images]`.
        label_names: Names in the order of the numbers.
    """
    is_named = len(label_names) <= MOST_LABELS_SHOWN
    size = max(4.5, 0.45 * min(len(label_names), MOST_LABELS_SHOWN))
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(len(label_names)),
        display_labels=label_names if is_named else None,
        normalize="true",
        include_values=len(label_names) <= 12,
        values_format=".2f",
        xticks_rotation="vertical" if is_named else "horizontal",
        cmap="Blues",
        ax=axis,
    )
    for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
        label.set(**AS_WRITTEN)
    return figure
