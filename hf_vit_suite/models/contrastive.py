"""The losses of pairs of images and texts, over the pairs of every process.

Shape letters: P pairs of this process, A pairs of all processes, E width of the features.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class GatherWithGradient(torch.autograd.Function):
    """`[rows, width]` of each process -> `[processes * rows, width]`; gradients of every process flow back."""

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
    """Scaled similarities of pairs.

    Args:
        per_image: `[images, texts]`.
        per_text: `[texts, images]`, which has other pairs than `per_image` where both have only this process's rows.
        first: Column that belongs to the first row; the next one belongs to the second, and so on.
    """

    per_image: Tensor
    per_text: Tensor
    first: int

    @property
    def partners(self) -> Tensor:
        """The column that belongs to each row, `[rows]`."""
        return self.first + torch.arange(self.per_image.shape[0], device=self.per_image.device)


def similarities(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None = None) -> Similarities:
    """Similarities of these images and texts alone, in float32.

    Args:
        images: `[images, E]`, of length 1; `texts` `[texts, E]`.
        scale: Factor of the cosines, a scalar.
        bias: Added to them, a scalar.
    """
    with torch.autocast(images.device.type, enabled=False):
        logits = scale.float() * images.float() @ texts.float().T
        if bias is not None:
            logits = logits + bias.float()
    return Similarities(logits, logits.T, 0)


def gathered_similarities(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None = None, local: bool = True
) -> Similarities:
    """Similarities with the pairs of every process, which must have equally many.

    Averaged over the processes, both forms have the gradients of one process with all pairs. The local one computes
    and keeps P x A similarities twice, the global one A x A in each process.

    Args:
        images: `[P, E]`, of length 1; `texts` alike.
        scale: Factor of the cosines, a scalar.
        bias: Added to them, a scalar.
        local: Whether the rows are this process's pairs or those of all.
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
    """Cross-entropy of finding each image's text, each text's image (Radford et al. 2021, arXiv 2103.00020, fig. 3).

    Returns:
        The mean over rows and both ways, a scalar.
    """
    partners = pairs.partners
    return (F.cross_entropy(pairs.per_image, partners) + F.cross_entropy(pairs.per_text, partners)) / 2


def sigmoid_loss(pairs: Similarities) -> Tensor:
    """Whether each image and text belong together (Zhai et al. 2023, arXiv 2303.15343, algorithm 1).

    Returns:
        The sum over the texts, mean over the images, a scalar.
    """
    signs = torch.full_like(pairs.per_image, -1.0)
    signs.scatter_(1, pairs.partners.unsqueeze(1), 1.0)
    return -F.logsigmoid(signs * pairs.per_image).sum(dim=1).mean()


LOSSES = {"softmax": softmax_loss, "sigmoid": sigmoid_loss}


@torch.no_grad()
def in_batch_accuracy(pairs: Similarities) -> Tensor:
    """Share of the images whose own text is the most similar of the batch, a scalar."""
    return (pairs.per_image.argmax(dim=1) == pairs.partners).float().mean()
