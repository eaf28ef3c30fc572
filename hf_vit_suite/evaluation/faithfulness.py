"""Faithfulness of explanations: deletion and insertion of patches in the order of an explanation.

Source: Petsiuk et al. 2018 (RISE), arXiv 1806.07421, section 4.1, with patches in place of pixels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .. import explain
from ..explain.encoders import image_encoder
from ..inference.scores import label_scores

RANDOM = "random"
Explain = Callable[[PreTrainedModel, Tensor], Tensor]
METHODS: dict[str, Explain] = {
    "relevance": lambda model, pixel_values: explain.relevance(model, pixel_values, resize=False),
    "gradient": lambda model, pixel_values: explain.attention_gradient(model, pixel_values, resize=False),
    "rollout": lambda model, pixel_values: explain.rollout(model, pixel_values, resize=False),
    "attention": lambda model, pixel_values: explain.attention_maps(model, pixel_values, resize=False),
}


@torch.no_grad()
def perturbation_curves(
    model: PreTrainedModel, pixel_values: Tensor, maps: Tensor, steps: int = 16
) -> tuple[Tensor, Tensor]:
    """The predicted class's probability while patches are deleted, and inserted, the highest value first.

    Absent patches are 0, the mean colour of normalised images, for insertion too: the blurred start image of the paper
    still shows the content of small images.

    Args:
        model: A classifier, in evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised.
        maps: `[batch, rows, columns]` on the patch grid.
        steps: Number of steps from all to none of the patches.

    Returns:
        Deletion and insertion, `[batch, steps + 1]` each, from none to all of the patches.
    """
    whole = explain.classify(model, pixel_values)
    classes = whole.argmax(dim=-1, keepdim=True)
    order = maps.flatten(1).argsort(dim=1, descending=True)
    ranks = order.argsort(dim=1).view_as(maps)
    ranks = ranks.repeat_interleave(pixel_values.shape[2] // maps.shape[1], dim=1)
    ranks = ranks.repeat_interleave(pixel_values.shape[3] // maps.shape[2], dim=2).unsqueeze(1)
    nothing = torch.zeros_like(pixel_values)
    curves = []
    for before, after in ((pixel_values, nothing), (nothing, pixel_values)):
        curve = []
        for step in range(steps + 1):
            reached = ranks < round(step * order.shape[1] / steps)
            logits = explain.classify(model, torch.where(reached, after, before))
            curve.append(label_scores(logits, model.config).gather(1, classes))
        curves.append(torch.cat(curve, dim=1))
    return curves[0], curves[1]


def method_curves(
    model: PreTrainedModel, pixel_values: Tensor, methods: Sequence[str], generator: torch.Generator, steps: int
) -> Tensor:
    """Deletion and insertion of each method, `[batch, methods, 2, steps + 1]`.

    Args:
        model: A classifier that the methods know.
        pixel_values: `[batch, channels, height, width]`.
        methods: Keys of `METHODS`, or `"random"` for a random order.
        generator: Draws that order, on the CPU.
        steps: As in `perturbation_curves`.
    """
    grid = image_encoder(model).grid(pixel_values)
    curves = []
    for method in methods:
        if method == RANDOM:
            maps = torch.rand(len(pixel_values), *grid, generator=generator).to(pixel_values.device)
        else:
            maps = METHODS[method](model, pixel_values)
        curves.append(torch.stack(perturbation_curves(model, pixel_values, maps, steps), dim=1))
    return torch.stack(curves, dim=1)


def faithfulness_report(curves: Tensor, methods: Sequence[str]) -> dict[str, dict]:
    """Means over the images.

    Args:
        curves: `[images, methods, 2, steps + 1]`, as `method_curves` gives.
        methods: Their names.

    Returns:
        For each method the area under its curve of `deletion` (lower is better) and `insertion` (higher is better),
        each from 0 to 1, and the mean curves.
    """
    steps = curves.shape[-1] - 1
    areas, means = (torch.trapezoid(curves, dim=-1) / steps).mean(dim=0), curves.mean(dim=0)
    return {
        method: {
            "deletion": areas[number, 0].item(),
            "insertion": areas[number, 1].item(),
            "deletion_curve": means[number, 0].tolist(),
            "insertion_curve": means[number, 1].tolist(),
        }
        for number, method in enumerate(methods)
    }
