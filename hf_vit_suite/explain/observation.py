"""Passes each layer's attention weights to an observer without storing them, via transformers' attention interface.

The observed encoder is a twin of the model's: the same weights, with this module's attention backend. It works for
the suite's and transformers' own models under any backend, reloads nothing, and leaves the model unchanged for other
threads that call it.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .encoders import image_encoder
from .twins import twin

BACKEND = "hf_vit_suite_observed"

# Takes a layer's weights `[batch, heads, queries, tokens]` and, in a backward pass, the score's gradient by them.
Observer = Callable[[Tensor, Tensor | None], None]


class Watch:
    """State of one observed forward pass: counts the layers as they run.

    Args:
        observe: Called with each observed layer's weights.
        layers: Observed layers, from 0; the others use SDPA.
        with_gradients: Observe the backward pass, from the last layer to the first, instead of the forward pass.
    """

    def __init__(self, observe: Observer, layers: Collection[int], with_gradients: bool):
        self.observe = observe
        self.layers = layers
        self.with_gradients = with_gradients
        self.layer = 0


_watch: ContextVar[Watch] = ContextVar("watch")


def attention_weights(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """`[batch, heads, queries, d]` and `[batch, heads, tokens, d]` -> `[batch, heads, queries, tokens]`."""
    return ((query * scaling) @ key.transpose(2, 3)).softmax(dim=-1, dtype=torch.float32).to(query.dtype)


class ObservedGradient(torch.autograd.Function):
    """Attention that recomputes its weights in the backward pass, so only one layer's are in memory at a time."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, scaling: float, observe: Observer):
        ctx.save_for_backward(query, key, value)
        ctx.scaling, ctx.observe = scaling, observe
        return F.scaled_dot_product_attention(query, key, value, scale=scaling)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        query, key, value = ctx.saved_tensors
        weights = attention_weights(query, key, ctx.scaling)
        by_weights = gradient @ value.transpose(2, 3)
        ctx.observe(weights, by_weights)
        by_scores = weights * (by_weights - (by_weights * weights).sum(dim=-1, keepdim=True)) * ctx.scaling
        return by_scores @ key, by_scores.transpose(2, 3) @ query, weights.transpose(2, 3) @ gradient, None, None


def observed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, scaling: float, **kwargs
) -> tuple[Tensor, None]:
    """Unmasked attention without dropout, with the signature of transformers' attention interface."""
    watch = _watch.get()
    layer, watch.layer = watch.layer, watch.layer + 1
    if layer not in watch.layers:
        attended = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    elif watch.with_gradients:
        attended = ObservedGradient.apply(query, key, value, scaling, watch.observe)
    else:
        weights = attention_weights(query, key, scaling)
        watch.observe(weights, None)
        attended = weights @ value
    return attended.transpose(1, 2), None  # (B, heads, N, d) -> (B, N, heads, d)


ALL_ATTENTION_FUNCTIONS.register(BACKEND, observed_attention)


@contextmanager
def observed(
    model: PreTrainedModel, observe: Observer, layers: Collection[int], with_gradients: bool = False
) -> Iterator[PreTrainedModel]:
    """Yields a twin of the model whose observed layers call `observe` with their attention weights.

    Args:
        model: The model; it is not changed.
        observe: Called with a layer's weights and, with gradients, the gradient by them.
        layers: Observed layers, from 0.
        with_gradients: Call `observe` in the backward pass, which may run after the block, instead of the forward.
    """
    watched = twin(model)
    image_encoder(watched).module.config._attn_implementation = BACKEND
    token = _watch.set(Watch(observe, layers, with_gradients))
    try:
        yield watched
    finally:
        _watch.reset(token)
