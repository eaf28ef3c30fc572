"""What a model looks at, as arrays and as pictures."""

from .attention import class_token_attention
from .figure import attention_figure, classifier_attention_figure
from .match import match_figure, match_relevance
from .reconstruction import reconstruct, reconstruction_figure

__all__ = [
    "attention_figure",
    "class_token_attention",
    "classifier_attention_figure",
    "match_figure",
    "match_relevance",
    "reconstruct",
    "reconstruction_figure",
]
