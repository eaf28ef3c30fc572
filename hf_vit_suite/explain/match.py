"""Which patches the match of an image with a text rests on."""

import textwrap
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from .figure import overlay_figure

# Characters of a title that fit over a panel.
TITLE_WIDTH = 24


def match_relevance(model: PreTrainedModel, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """How much each patch raises the similarity of an image and a text (Chefer et al. 2021, arXiv 2103.15679).

    Attention times its gradient, its positive part averaged over the heads (eq. 5), is gathered layer by layer into
    what the class token takes from each patch (eq. 6).

    Args:
        model: Two towers with the outputs of `SuiteCLIPModel`, in evaluation mode; transformers' own CLIP needs the
            eager attention backend.
        pixel_values: `[pairs, channels, height, width]`, normalised.
        input_ids: `[pairs, tokens]`, the text of each image.

    Returns:
        Relevance `[pairs, rows, columns]` on the patch grid, not negative, and the cosines of the pairs, `[pairs]`.
    """
    with torch.enable_grad():
        # The images ask for a gradient, so that there is a graph where every weight is frozen too.
        outputs = model(
            input_ids=input_ids, pixel_values=pixel_values.detach().requires_grad_(), output_attentions=True
        )
        similarities = (outputs.image_embeds * outputs.text_embeds).sum(dim=1)
        attentions = outputs.vision_model_output.attentions
        gradients = torch.autograd.grad(similarities.sum(), attentions)
    relevance = torch.eye(attentions[0].shape[-1], device=pixel_values.device)
    for attention, gradient in zip(attentions, gradients, strict=True):
        kept = (attention.detach() * gradient).clamp(min=0).float().mean(dim=1)  # (B, heads, N, N) -> (B, N, N)
        relevance = relevance + kept @ relevance
    config = model.config.vision_config
    rows, columns = (side // config.patch_size for side in pixel_values.shape[-2:])
    return relevance[:, 0, -rows * columns :].unflatten(1, (rows, columns)), similarities.detach()


def match_figure(
    model: PreTrainedModel, pixel_values: Tensor, input_ids: Tensor, texts: Sequence[str], image_processor
) -> Figure:
    """An image as the model sees it, and for each text the patches that their match rests on.

    Args:
        model: As in `match_relevance`.
        pixel_values: `[1, channels, height, width]`, normalised.
        input_ids: `[texts, tokens]`.
        texts: What the tokens mean.
        image_processor: The processor whose normalisation is undone.

    Returns:
        A matplotlib figure with a transparent background; each text's panel has its own colour range.
    """
    maps, similarities = match_relevance(model, pixel_values.expand(len(input_ids), -1, -1, -1), input_ids)
    names = [
        textwrap.fill(f"{text} ({similarity:.2f})", TITLE_WIDTH)
        for text, similarity in zip(texts, similarities.tolist(), strict=True)
    ]
    return overlay_figure(pixel_values, maps.unsqueeze(0), image_processor, ["image"], names)
