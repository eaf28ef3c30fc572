"""Scores from the logits of an image classifier: probabilities or values, depending on its `problem_type`.

Source: transformers' `ImageClassificationPipeline.postprocess`.
"""

from torch import Tensor
from transformers import PretrainedConfig


def predicts_values(config: PretrainedConfig) -> bool:
    """Whether the logits are values of a regression, not scores of labels."""
    return config.problem_type == "regression"


def has_independent_labels(config: PretrainedConfig) -> bool:
    """Whether labels are independent (sigmoid): any number of them may apply to an image."""
    return config.problem_type == "multi_label_classification" or config.num_labels == 1


def problem_of(config: PretrainedConfig) -> str:
    """A classifier's `problem_type`; where it has none, that by which its logits are read."""
    if config.problem_type is not None:
        return config.problem_type
    return "multi_label_classification" if has_independent_labels(config) else "single_label_classification"


def label_scores(logits: Tensor, config: PretrainedConfig) -> Tensor:
    """Each label's probability, or a regression's values, `[..., labels]`, in float32."""
    if predicts_values(config):
        return logits.float()
    return logits.float().sigmoid() if has_independent_labels(config) else logits.float().softmax(dim=-1)


def prediction_title(logits: Tensor, config: PretrainedConfig) -> str:
    """A title with the highest score, of logits `[labels]`, and its label."""
    score, number = label_scores(logits, config).max(dim=-1)
    label = config.id2label[number.item()]
    return f"predicted: {label} = {score:.3g}" if predicts_values(config) else f"predicted: {label} ({score:.2f})"


def require_one_label(config: PretrainedConfig, name: str, purpose: str) -> None:
    """Refuses a classifier whose labels are not mutually exclusive.

    Args:
        config: Config of the classifier.
        name: Its folder or Hub name.
        purpose: The task that needs one label per image, for the error.

    Raises:
        ValueError: If it is a regression, has independent labels or a single one.
    """
    if predicts_values(config) or has_independent_labels(config):
        kind = f"problem_type {config.problem_type}" if config.problem_type else "a single label"
        raise ValueError(f"{name} has {kind}: {purpose} needs a classifier that chooses one of several labels")
