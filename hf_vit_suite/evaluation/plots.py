"""Figures of evaluations."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from ..output import AS_WRITTEN

MOST_LABELS_SHOWN = 30


def confusion_figure(labels: np.ndarray, predicted: np.ndarray, label_names: Sequence[str]) -> Figure:
    """Confusion matrix: true labels in rows, predicted in columns, rows normalised to 1. Over 30 labels are not named.

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
