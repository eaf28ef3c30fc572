"""Small models with random weights, transformers' own and ours, and the derivation that keeps every map."""

import weakref

import pytest
import torch
from references import randomise
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPModel,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PretrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)

from hf_vit_suite.explain import observation

FIELDS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
TINY = {**FIELDS, "image_size": 32, "patch_size": 8}
CLIP_FIELDS = {
    "vision_config": TINY,
    "text_config": {
        **FIELDS,
        "vocab_size": 60,
        "max_position_embeddings": 12,
        "bos_token_id": 58,
        "eos_token_id": 59,
        "pad_token_id": 59,
    },
    "projection_dim": 16,
}
# Tokens in front of the patches of transformers' classifiers.
CLASSIFIERS = {
    "vit": (ViTForImageClassification, ViTConfig(**TINY, num_labels=5), 1),
    "deit": (DeiTForImageClassification, DeiTConfig(**TINY, num_labels=5), 2),
    "dinov2": (Dinov2ForImageClassification, Dinov2Config(**TINY, num_labels=5), 1),
    "registers": (
        Dinov2WithRegistersForImageClassification,
        Dinov2WithRegistersConfig(**TINY, num_labels=5, num_register_tokens=3),
        4,
    ),
}


def transformers_classifier(name: str, backend: str = "sdpa") -> tuple[PreTrainedModel, int]:
    """A classifier of transformers with random weights, the same under each backend, and its prefix tokens."""
    kind, config, prefix = CLASSIFIERS[name]
    return seeded(kind, config, backend), prefix


def transformers_clip(backend: str = "sdpa") -> CLIPModel:
    """A CLIP of transformers with random weights."""
    return seeded(CLIPModel, CLIPConfig(**CLIP_FIELDS), backend)


def seeded(kind: type[PreTrainedModel], config: PretrainedConfig, backend: str) -> PreTrainedModel:
    """A model whose weights are the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return randomise(kind._from_config(config, attn_implementation=backend), scale=0.3)


def rollout_of(attentions: tuple[Tensor, ...], fusion: str = "mean", discard_ratio: float = 0.0) -> Tensor:
    """The product of all layers, `[batch, tokens, tokens]`, image by image in float64."""
    images = []
    for image in range(len(attentions[0])):
        product = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
        for layer in attentions:
            heads = layer[image].double()
            fused = {"mean": heads.mean(0), "max": heads.max(0).values, "min": heads.min(0).values}[fusion].clone()
            dropped = int(discard_ratio * fused.numel())
            fused.view(-1)[fused.flatten().argsort()[:dropped]] = 0
            mixed = 0.5 * fused + 0.5 * torch.eye(len(fused), dtype=torch.float64)
            product = (mixed / mixed.sum(dim=1, keepdim=True)) @ product
        images.append(product)
    return torch.stack(images)


def maps_and_gradients(attentions: tuple[Tensor, ...], scores: Tensor) -> list[Tensor]:
    """The positive part of attention times gradient of each layer, `[batch, heads, tokens, tokens]`."""
    gradients = torch.autograd.grad(scores.sum(), attentions)
    return [(attention * gradient).detach().relu() for attention, gradient in zip(attentions, gradients, strict=True)]


def relevance_of(products: list[Tensor], first: int = 0) -> Tensor:
    """Eq. 5 and 6 of the paper from the first layer to the last, `[batch, tokens, tokens]`."""
    relevance = torch.eye(products[0].shape[-1], dtype=products[0].dtype)
    for product in products[first:]:
        relevance = relevance + product.mean(dim=1) @ relevance
    return relevance


def watch_weights(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """Every layer's attention weights as they are made; each finds those before it gone."""
    made, compute = [], observation.attention_weights

    def recorded(*arguments) -> torch.Tensor:
        assert all(reference() is None for reference in made)
        weights = compute(*arguments)
        made.append(weakref.ref(weights))
        return weights

    monkeypatch.setattr(observation, "attention_weights", recorded)
    return made
