"""What a model's `problem_type` changes in measuring it."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import EvalPrediction

from ..data.labels import MULTI, REGRESSION, SINGLE
from .classification import classification_metrics, cross_entropy
from .multi_label import binary_cross_entropy, multi_label_metrics
from .regression import mean_squared, regression_metrics


@dataclass(frozen=True)
class Problem:
    """How a problem is measured.

    Args:
        metrics: Metrics of logits or values and labels.
        loss: Mean loss of the same.
        best: The metric that chooses the best checkpoint, and leads a summary.
        is_greater_better: Whether a larger one is better.
        loss_name: The loss in words.
    """

    metrics: Callable[[EvalPrediction], dict[str, float]]
    loss: Callable[[EvalPrediction], float]
    best: str
    is_greater_better: bool
    loss_name: str


PROBLEMS = {
    SINGLE: Problem(classification_metrics, cross_entropy, "accuracy", True, "cross-entropy"),
    MULTI: Problem(multi_label_metrics, binary_cross_entropy, "mAP", True, "binary cross-entropy"),
    REGRESSION: Problem(regression_metrics, mean_squared, "mae", False, "mean squared error"),
}
