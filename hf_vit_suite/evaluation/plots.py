"""Figures of evaluations."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay, precision_recall_curve

from ..data.labels import MULTI, REGRESSION
from ..names import AS_WRITTEN, shortened, visible

MOST_LABELS_SHOWN = 30
MOST_LABELS_IN_LEGEND = 12
MOST_LETTERS = 40  # of a label
INCHES_A_LETTER = 0.09


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Confusion matrix: true labels in rows, predicted in columns, rows normalised to 1. Over 30 labels are not named.

    Args:
        labels: True label numbers `[images]`.
        predicted: Predicted label numbers `[images]`.
        label_names: Names in the order of the numbers.
    """
    is_named = len(label_names) <= MOST_LABELS_SHOWN
    shown = [shortened(visible(name, "\n"), MOST_LETTERS) for name in label_names] if is_named else None
    size = max(4.5, 0.45 * min(len(label_names), MOST_LABELS_SHOWN))
    if is_named:
        size += INCHES_A_LETTER * max(map(len, shown))
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axis = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(len(label_names)),
        display_labels=shown,
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


def precision_recall_figure(labels: np.ndarray, logits: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Precision by recall of each label that an image has; over 12 labels are not named.

    Args:
        labels: Multi-hot `[images, labels]`.
        logits: `[images, labels]`.
        label_names: Names in the order of the numbers.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axis = figure.subplots()
    shown = []
    for number, name in enumerate(label_names):
        if labels[:, number].any():
            precision, recall, _ = precision_recall_curve(labels[:, number] > 0.5, logits[:, number])
            axis.plot(recall, precision)
            shown.append(shortened(visible(name, "\n"), MOST_LETTERS))
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.05))
    axis.grid(alpha=0.3)
    if 0 < len(axis.lines) <= MOST_LABELS_IN_LEGEND:
        # A legend leaves out labels that start with an underscore, so names are set afterwards.
        legend = axis.legend(axis.lines, ["label"] * len(shown))
        for text, name in zip(legend.get_texts(), shown, strict=True):
            text.set(text=name, **AS_WRITTEN)
    return figure


def values_figure(targets: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Figure:
    """Predicted by true values; exact predictions lie on the diagonal.

    Args:
        targets: `[images, targets]`.
        predicted: `[images, targets]`.
        names: Of the targets.
    """
    figure = Figure(figsize=(4.5 * min(len(names), 4), 4.5), layout="constrained")
    for number, (name, axis) in enumerate(zip(names, figure.subplots(1, len(names), squeeze=False).flat, strict=True)):
        axis.scatter(targets[:, number], predicted[:, number], s=12, alpha=0.6)
        ends = [targets[:, number].min(), targets[:, number].max()]
        axis.plot(ends, ends, color="grey", linewidth=1)
        axis.set(xlabel="true", ylabel="predicted")
        axis.set_title(shortened(visible(name, "\n"), MOST_LETTERS), **AS_WRITTEN)
    return figure


def prediction_figures(
    problem_type: str, labels: np.ndarray, logits: np.ndarray, names: Sequence[str]
) -> dict[str, Callable[[], Figure]]:
    """What draws the predictions of a problem, by file name.

    Args:
        problem_type: As in transformers' configs.
        labels: Label numbers `[images]`, multi-hot labels or values `[images, labels]`.
        logits: Logits or values `[images, labels]`.
        names: Labels by number.
    """
    if problem_type == MULTI:
        return {"precision_recall.png": partial(precision_recall_figure, labels, logits, names)}
    if problem_type == REGRESSION:
        return {"values.png": partial(values_figure, labels, logits, names)}
    return {"confusion_matrix.png": partial(confusion_figure, labels, logits.argmax(axis=-1), names)}


def knn_figure(report: dict[int, dict[str, float]]) -> Figure:
    """Accuracy by the number of neighbours, from `knn_report`."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axis = figure.subplots()
    for name in next(iter(report.values())):
        axis.plot(list(report), [metrics[name] for metrics in report.values()], marker="o", label=name.split("_")[0])
    axis.set(xscale="log", xlabel="neighbours", ylabel="accuracy", xticks=list(report), xticklabels=list(report))
    axis.minorticks_off()
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def sweep_figure(report: dict) -> Figure:
    """Validation accuracy by learning rate, and the test accuracy of the best, from `linear_probe`."""
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.plot(list(report["sweep"]), list(report["sweep"].values()), marker="o", label="validation")
    axis.plot([report["learning_rate"]], [report["accuracy"]], marker="*", markersize=12, linestyle="", label="test")
    axis.set(xscale="log", xlabel="learning rate for 256 images", ylabel="accuracy")
    axis.legend()
    axis.grid(alpha=0.3)
    return figure


def reliability_figure(report: dict) -> Figure:
    """Accuracy by confidence, from `classification_report`; a calibrated classifier lies on the diagonal."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    rows = report["calibration"]
    axis.bar(
        [row["confidence"] for row in rows],
        [row["accuracy"] for row in rows],
        width=[0.01 + 0.05 * row["share"] for row in rows],
        label="accuracy; bar width: fraction of images",
    )
    axis.plot([0, 1], [0, 1], color="#808080", linestyle="--")
    axis.set(xlim=(0, 1.05), ylim=(0, 1.05), xlabel="confidence", ylabel="accuracy")
    axis.set_title(f"expected calibration error {report['calibration_error']:.3f}")
    axis.legend(fontsize=7)
    return figure


def faithfulness_figure(report: dict[str, dict]) -> Figure:
    """Deletion and insertion curves of every method, from `faithfulness_report`."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2, sharey=True), ("deletion", "insertion"), strict=True):
        for method, metrics in report.items():
            curve = metrics[f"{name}_curve"]
            shares = [100 * step / (len(curve) - 1) for step in range(len(curve))]
            axis.plot(
                shares,
                curve,
                label=f"{method} ({metrics[name]:.3f})",
                linestyle="--" if method == "random" else "-",
            )
        axis.set(title=name, xlabel="% of the patches", ylim=(0, 1))
        axis.legend(title="area", fontsize=7)
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("probability of the class")
    return figure
