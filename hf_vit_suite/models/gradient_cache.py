"""Gradient caching: features of a large batch in the memory of a small one (Gao et al. 2021, arXiv 2101.06983).

A contrastive loss needs the features of the whole batch, but not all activations at the same time. The forward pass
computes the features part by part without a graph. The backward pass, once their gradient is known, recomputes each
part with a graph. Loss and gradients equal those of the whole batch.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import get_device_states, set_device_states


class PartByPart(torch.autograd.Function):
    """One autograd node for all parts: each weight gets its gradient once, as DistributedDataParallel expects."""

    @staticmethod
    def forward(ctx, encode: Callable[[Tensor], Tensor], inputs: Tensor, size: int, *weights: Tensor) -> Tensor:
        kind = inputs.device.type
        ctx.encode, ctx.parts, ctx.size = encode, inputs.split(size), size
        ctx.precision = {
            "device_type": kind,
            "enabled": torch.is_autocast_enabled(kind),
            "dtype": torch.get_autocast_dtype(kind),
        }
        ctx.random_states = []
        ctx.save_for_backward(*weights)
        features = []
        for part in ctx.parts:
            ctx.random_states.append((torch.get_rng_state(), *get_device_states(part)))
            features.append(encode(part))
        return torch.cat(features)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weights = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(weights)
        for part, state, part_gradient in zip(ctx.parts, ctx.random_states, gradient.split(ctx.size), strict=True):
            with replayed(state, part.device.type), torch.enable_grad(), torch.autocast(**ctx.precision):
                features = ctx.encode(part)
            found = torch.autograd.grad(features, weights, part_gradient, allow_unused=True)
            for number, addend in enumerate(found):
                if totals[number] is None:
                    totals[number] = addend
                elif addend is not None:
                    totals[number].add_(addend)
        return None, None, None, *totals


@contextmanager
def replayed(state: tuple[Tensor, list[int], list[Tensor]], device_type: str) -> Iterator[None]:
    """Restores the random state of a part's forward pass, and the current state on exit."""
    of_cpu, devices, of_devices = state
    with torch.random.fork_rng(devices, device_type=device_type):
        torch.set_rng_state(of_cpu)
        if devices:
            set_device_states(devices, of_devices, device_type=device_type)
        yield


def cached_features(
    encode: Callable[[Tensor], Tensor], weights: Iterable[nn.Parameter], inputs: Tensor, size: int
) -> Tensor:
    """A tower's features of a batch, with activations of at most `size` samples in memory.

    Both passes use the same dropout masks and the same autocast settings.

    Args:
        encode: Maps some samples of `inputs` to their features `[samples, width]`, each sample independently.
        weights: Parameters of `encode`; frozen ones are ignored.
        inputs: `[batch, ...]`; get no gradient.
        size: Samples per part.

    Returns:
        `[batch, width]`.
    """
    learned = [weight for weight in weights if weight.requires_grad]
    return PartByPart.apply(encode, inputs, size, *learned)
