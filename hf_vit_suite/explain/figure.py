"""Figures of attention maps."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from .attention import class_token_attention

INCHES_A_PANEL = 1.9
INCHES_A_LINE = 0.2
# A mid grey reads on a light and on a dark page.
TEXT_COLOUR = "#808080"


def attention_figure(pixel_values: Tensor, maps: Tensor, image_processor, titles: Sequence[str]) -> Figure:
    """One row an image: the image as the model sees it, the mean over heads, each head.

    Args:
        pixel_values: `[batch, channels, height, width]`, normalised.
        maps: `[batch, heads, rows, columns]`, as `class_token_attention` gives; each panel has its own colour range.
        image_processor: The processor whose normalisation is undone.
        titles: A title for each image, such as its prediction.

    Returns:
        A matplotlib figure with a transparent background.
    """
    names = ["mean of heads"] + [f"head {head + 1}" for head in range(maps.shape[1])]
    return overlay_figure(
        pixel_values, torch.cat((maps.mean(dim=1, keepdim=True), maps), dim=1), image_processor, titles, names
    )


def overlay_figure(
    pixel_values: Tensor, maps: Tensor, image_processor, titles: Sequence[str], names: Sequence[str]
) -> Figure:
    """One row an image: the image as the model sees it, then each of its maps over it.

    Args:
        pixel_values: `[batch, channels, height, width]`, normalised.
        maps: `[batch, maps, rows, columns]`; each panel has its own colour range.
        image_processor: The processor whose normalisation is undone.
        titles: A title for each image.
        names: A title for each column of maps.
    """
    images = displayable(pixel_values, image_processor)
    overlays = F.interpolate(maps.float(), size=pixel_values.shape[-2:], mode="bilinear")
    width, height = len(names) + 1, len(images)
    title_lines = 1 + max(name.count("\n") for name in names)
    size = (INCHES_A_PANEL * width, INCHES_A_PANEL * height + INCHES_A_LINE * title_lines)
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots(height, width, squeeze=False)
    for row, (image, image_overlays, title) in enumerate(zip(images, overlays, titles, strict=True)):
        axes[row, 0].imshow(image)
        axes[row, 0].set_title(title, fontsize=8, color=TEXT_COLOUR)
        for axis, overlay in zip(axes[row, 1:], image_overlays, strict=True):
            axis.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
            axis.imshow(overlay.numpy(force=True), cmap="viridis", alpha=0.75)
    for axis, name in zip(axes[0, 1:], names, strict=True):
        axis.set_title(name, fontsize=8, color=TEXT_COLOUR)
    for axis in axes.flat:
        axis.set_axis_off()
    figure.patch.set_alpha(0)
    return figure


@torch.no_grad()
def classifier_attention_figure(model: PreTrainedModel, pixel_values: Tensor, image_processor) -> Figure:
    """The last layer's attention on images, each under what the classifier predicts for it.

    Args:
        model: A classifier of the suite, in evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised, on the model's device.
        image_processor: The processor whose normalisation is undone.

    Raises:
        ValueError: If the model is none that `class_token_attention` knows.
    """
    predicted = model(pixel_values).logits.argmax(dim=-1).tolist()
    titles = [f"predicted: {model.config.id2label[number]}" for number in predicted]
    return attention_figure(pixel_values, class_token_attention(model, pixel_values), image_processor, titles)


def displayable(pixel_values: Tensor, image_processor) -> np.ndarray:
    """Normalised `[batch, 3, height, width]` -> `[batch, height, width, 3]` from 0 to 1."""
    mean, std = (pixel_values.new_tensor(values).view(-1, 1, 1) for values in mean_and_std(image_processor))
    return (pixel_values * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy(force=True)


def mean_and_std(image_processor) -> tuple[Sequence[float], Sequence[float]]:
    """The statistics that a processor normalises with; 0 and 1 where it does not."""
    if getattr(image_processor, "do_normalize", False):
        return image_processor.image_mean, image_processor.image_std
    return [0.0] * 3, [1.0] * 3
