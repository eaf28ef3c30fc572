"""Metrics of models that predict values."""

import numpy as np
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from transformers import EvalPrediction


def mean_squared(prediction: EvalPrediction) -> float:
    """Mean over images and targets of the squared error."""
    predicted, targets = aligned(prediction)
    return float(mean_squared_error(targets, predicted))


def regression_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Mean absolute error, root of the mean squared error, and the coefficient of determination R2.

    R2 is the mean over targets; it is left out for a single image, for which it is not defined.

    Args:
        prediction: Predicted and true values, `[images, targets]` each.
    """
    predicted, targets = aligned(prediction)
    metrics = {
        "mae": float(mean_absolute_error(targets, predicted)),
        "rmse": float(np.sqrt(mean_squared_error(targets, predicted))),
    }
    return metrics | ({"r2": float(r2_score(targets, predicted))} if len(targets) > 1 else {})


def aligned(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true values as float64, `[images, targets]`."""
    predicted = np.asarray(prediction.predictions, np.float64)
    return predicted, np.asarray(prediction.label_ids, np.float64).reshape(predicted.shape)


def regression_report(predicted: np.ndarray, targets: np.ndarray, names: dict[int, str]) -> dict:
    """Metrics of values.

    Args:
        predicted: `[images, targets]`.
        targets: `[images, targets]`.
        names: Targets by number.

    Returns:
        As `regression_metrics`, `loss` (mean squared error), and `per_target`, the same of each target.
    """
    whole = EvalPrediction(predicted, targets)
    each = {
        names[number]: regression_metrics(EvalPrediction(predicted[:, [number]], targets[:, [number]]))
        for number in range(predicted.shape[1])
    }
    return {**regression_metrics(whole), "loss": mean_squared(whole), "per_target": each}
