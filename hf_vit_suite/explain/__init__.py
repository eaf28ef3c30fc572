"""What a model looks at, as arrays and as pictures."""

from .attention import class_token_attention
from .figure import attention_figure, classifier_attention_figure
from .reconstruction import reconstruct, reconstruction_figure

__all__ = [
    "attention_figure",
    "class_token_attention",
    "classifier_attention_figure",
    "reconstruct",
    "reconstruction_figure",
]
