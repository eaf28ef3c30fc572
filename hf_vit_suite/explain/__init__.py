"""Explains vision transformers: attention, relevance and feature maps, as tensors and figures."""

from .attention import attention_maps, class_token_attention, mass_masks, rollout
from .features import as_colours, patch_features, patch_pca, patch_similarity, principal_components
from .figures import attention_figure, classifier_attention_figure, displayable, figure, overlay
from .gradients import attention_gradient, classify, has_classes, relevance, text_scores
from .reconstruction import reconstruct, reconstruction_figure

__all__ = [
    "as_colours",
    "attention_figure",
    "attention_gradient",
    "attention_maps",
    "class_token_attention",
    "classifier_attention_figure",
    "classify",
    "displayable",
    "figure",
    "has_classes",
    "mass_masks",
    "overlay",
    "patch_features",
    "patch_pca",
    "patch_similarity",
    "principal_components",
    "reconstruct",
    "reconstruction_figure",
    "relevance",
    "rollout",
    "text_scores",
]
