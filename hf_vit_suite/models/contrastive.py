"""Contrastive losses of image-text pairs, over the pairs of all processes.

Shape letters: see transformer.py; here also Q pairs of this process, A pairs of all processes, F projection width.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward sums the gradients of all processes: `[Q, ...]` per process -> `[A, ...]`."""

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class Similarities(NamedTuple):
    """Scaled similarities of images and texts.

    Args:
        per_image: `[images, texts]`.
        per_text: `[texts, images]`; not the transpose of `per_image` if the rows are those of this process only.
        first: Column of the first row's pair; row i belongs to column `first + i`.
    """

    per_image: Tensor
    per_text: Tensor
    first: int

    @property
    def partners(self) -> Tensor:
        """Column of each row's pair, `[rows]`."""
        return self.first + torch.arange(self.per_image.shape[0], device=self.per_image.device)


def similarities(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None = None) -> Similarities:
    """Similarities of the given images and texts, without communication, in float32.

    Args:
        images: `[images, F]`, L2-normalised; `texts` `[texts, F]`.
        scale: Factor of the cosines (inverse temperature), a scalar.
        bias: Added to the scaled cosines, a scalar; default none.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = scale.float() * images.float() @ texts.float().T
        if bias is not None:
            logits = logits + bias.float()
    return Similarities(logits, logits.T, 0)


def gathered_similarities(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None = None, local: bool = True
) -> Similarities:
    """Similarities with the pairs of all processes, each of which must hold equally many.

    Averaged over the processes, both forms give the gradients of one process with all pairs. Each process computes
    and stores two Q x A matrices in the local form, one A x A matrix in the global form.

    Args:
        images: `[Q, F]`, L2-normalised; `texts` has the same shape.
        scale: Factor of the cosines (inverse temperature), a scalar.
        bias: Added to the scaled cosines, a scalar; default none.
        local: Whether the rows are the pairs of this process or of all processes.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return similarities(images, texts, scale, bias)
    all_images, all_texts = GatherWithGradient.apply(torch.stack((images.float(), texts.float()), dim=1)).unbind(1)
    if not local:
        return similarities(all_images, all_texts, scale, bias)
    return Similarities(
        similarities(images, all_texts, scale, bias).per_image,
        similarities(texts, all_images, scale, bias).per_image,
        dist.get_rank() * images.shape[0],
    )


def softmax_loss(pairs: Similarities) -> Tensor:
    """Symmetric cross-entropy, image to text and text to image (Radford et al. 2021, arXiv 2103.00020, fig. 3).

    Returns:
        The mean over rows and both directions, a scalar.
    """
    partners = pairs.partners
    return (F.cross_entropy(pairs.per_image, partners) + F.cross_entropy(pairs.per_text, partners)) / 2


def sigmoid_loss(pairs: Similarities) -> Tensor:
    """Binary cross-entropy of each image-text combination (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    Returns:
        The sum over the texts, mean over the images, a scalar.
    """
    signs = torch.full_like(pairs.per_image, -1.0)
    signs.scatter_(1, pairs.partners.unsqueeze(1), 1.0)
    return -F.logsigmoid(signs * pairs.per_image).sum(dim=1).mean()


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


@torch.no_grad()
def in_batch_accuracy(pairs: Similarities) -> Tensor:
    """Fraction of the images whose own text is the most similar of the batch, a scalar."""
    return (pairs.per_image.argmax(dim=1) == pairs.partners).float().mean()
