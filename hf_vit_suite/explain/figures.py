"""Draws overlays of maps on images, and figures of several images side by side."""

import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL.Image import Image
from torch import Tensor
from transformers import PreTrainedModel

from ..inference.scores import prediction_title
from ..names import AS_WRITTEN, visible
from .attention import class_token_attention
from .encoders import resize_map

INCHES_A_PANEL = 1.9
INCHES_A_LINE = 0.2
INCHES_OF_COLOUR_BAR = 0.6
# Characters per line, and lines, of a title above a panel.
TITLE_WIDTH, TITLE_LINES = 26, 8
# A mid grey is readable on light and dark pages.
TEXT_COLOUR = "#808080"
COLOURS = "viridis"  # perceptually uniform
OPACITY = 0.75
# Brightness factor of the pixels outside a mask.
DIMMED = 0.2


def overlay(picture: Image | np.ndarray, values: Tensor) -> np.ndarray:
    """Draws a map over an image, at the image's resolution.

    Args:
        picture: A PIL image, or `[height, width, 3]` from 0 to 1.
        values: A map `[rows, columns]` of any resolution, colour-mapped from its minimum to its maximum over the grey
            image; a boolean mask, outside which the image is dimmed; or RGB `[3, rows, columns]`, which replaces it.

    Returns:
        `[height, width, 3]` from 0 to 1.
    """
    picture = as_array(picture)
    values = resize_map(values.detach().cpu(), picture.shape[:2])
    if values.ndim == 3:
        return values.permute(1, 2, 0).clamp(0, 1).numpy()
    if values.dtype == torch.bool:
        return np.where(values.unsqueeze(-1).numpy(), picture, DIMMED * picture)
    grey = picture.mean(axis=2, keepdims=True)
    colours = matplotlib.colormaps[COLOURS](Normalize()(values.numpy()))[..., :3]
    return OPACITY * colours + (1 - OPACITY) * grey


def figure(
    pictures: Sequence[Image | np.ndarray],
    maps: Tensor | Sequence[Sequence[Tensor]],
    titles: Sequence[str] | None = None,
    names: Sequence[str] = ("",),
    label: str = "",
) -> Figure:
    """Draws one row per image: the image, then its overlays, each with its own colour range.

    Args:
        pictures: PIL images, or arrays `[height, width, 3]` from 0 to 1, such as from `displayable`.
        maps: One map per image, `[batch, height, width]`, or for each image a sequence of one map per name; see
            `overlay`.
        titles: One title per image, such as its prediction.
        names: Titles of the map columns.
        label: Label of the colour bar, which is drawn for value maps but not for masks or RGB.

    Returns:
        A matplotlib figure with a transparent background, readable on light and dark pages.

    Raises:
        ValueError: If the numbers of images, maps and titles differ.
    """
    rows = [[values] for values in maps] if isinstance(maps, Tensor) else [list(panels) for panels in maps]
    titles = [""] * len(pictures) if titles is None else titles
    if not len(rows) == len(pictures) == len(titles):
        raise ValueError(f"got {len(pictures)} pictures, {len(rows)} maps and {len(titles)} titles")
    pictures = [as_array(picture) for picture in pictures]
    titles, names = ([wrapped(text) for text in texts] for texts in (titles, names))
    has_values = any(values.ndim == 2 and values.dtype != torch.bool for panels in rows for values in panels)
    drawn = Figure(figsize=figure_size(pictures, titles, names, has_values), layout="compressed")
    axes = drawn.subplots(len(pictures), len(names) + 1, squeeze=False)
    for row, (picture, panels, title) in enumerate(zip(pictures, rows, titles, strict=True)):
        axes[row, 0].imshow(picture)
        axes[row, 0].set_title(title, fontsize=8, color=TEXT_COLOUR, **AS_WRITTEN)
        for axis, values in zip(axes[row, 1:], panels, strict=True):
            axis.imshow(overlay(picture, values))
    for axis, name in zip(axes[0, 1:], names, strict=True):
        axis.set_title(name, fontsize=8, color=TEXT_COLOUR, **AS_WRITTEN)
    for axis in axes.flat:
        axis.set_axis_off()
    if has_values:
        add_colour_bar(drawn, axes, rows, label)
    drawn.patch.set_alpha(0)
    return drawn


def wrapped(title: str) -> str:
    """A title in lines of `TITLE_WIDTH`; its own line breaks stay, and a long one ends with an ellipsis."""
    written = (textwrap.wrap(line, TITLE_WIDTH) for line in visible(title, "\n").split("\n"))
    lines = [line for of_line in written for line in of_line or [""]]
    if len(lines) > TITLE_LINES:
        lines = [*lines[: TITLE_LINES - 1], lines[TITLE_LINES - 1][: TITLE_WIDTH - 1] + "…"]
    return "\n".join(lines)


def figure_size(
    pictures: Sequence[np.ndarray], titles: Sequence[str], names: Sequence[str], has_values: bool
) -> tuple[float, float]:
    """Returns (width, height) in inches of a figure with columns of `INCHES_A_PANEL`."""
    heights = [INCHES_A_PANEL * min(height / width, 2) for height, width, _ in map(np.shape, pictures)]
    lines = [1 + title.count("\n") for title in titles]
    lines[0] = max(lines[0], *(1 + name.count("\n") for name in names))
    width = INCHES_A_PANEL * (len(names) + 1) + INCHES_OF_COLOUR_BAR * has_values
    return width, sum(heights) + INCHES_A_LINE * sum(lines)


def add_colour_bar(drawn: Figure, axes: np.ndarray, rows: Sequence[Sequence[Tensor]], label: str) -> None:
    """Adds a colour bar: numeric for a single map, else labelled lowest and highest, as each map has its own range."""
    values = [panel.detach().cpu() for panels in rows for panel in panels]
    is_alone = len(values) == 1
    norm = Normalize(values[0].min(), values[0].max()) if is_alone else Normalize(0, 1)
    bar = drawn.colorbar(ScalarMappable(norm, COLOURS), ax=axes, shrink=0.8, aspect=25)
    if not is_alone:
        bar.set_ticks([0, 1], labels=["lowest", "highest"])
    bar.ax.tick_params(labelsize=7, colors=TEXT_COLOUR)
    bar.set_label(label, fontsize=8, color=TEXT_COLOUR)
    bar.outline.set_edgecolor(TEXT_COLOUR)


def attention_figure(pixel_values: Tensor, maps: Tensor, image_processor, titles: Sequence[str]) -> Figure:
    """Draws one row per image: the model input, the mean over heads, each head.

    Args:
        pixel_values: `[batch, channels, height, width]`, normalised.
        maps: `[batch, heads, rows, columns]` from `class_token_attention`; each panel has its own colour range.
        image_processor: Source of the mean and standard deviation for denormalisation.
        titles: One title per image, such as its prediction.

    Returns:
        A matplotlib figure with a transparent background.
    """
    panels = torch.cat((maps.mean(dim=1, keepdim=True), maps), dim=1)
    return figure(displayable(pixel_values, image_processor), list(panels), titles, head_names(maps.shape[1]))


def head_names(heads: int) -> list[str]:
    """Returns the panel names of the mean over heads and of each head, counted from 0."""
    return ["mean of heads", *(f"head {head}" for head in range(heads))]


@torch.no_grad()
def classifier_attention_figure(model: PreTrainedModel, pixel_values: Tensor, image_processor) -> Figure:
    """Draws the last layer's attention on images, titled with the classifier's predictions.

    Args:
        model: A classifier, in evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised, on the model's device.
        image_processor: Source of the mean and standard deviation for denormalisation.

    Raises:
        ValueError: If `class_token_attention` does not support the model.
    """
    titles = [prediction_title(logits, model.config) for logits in model(pixel_values).logits]
    return attention_figure(pixel_values, class_token_attention(model, pixel_values), image_processor, titles)


def as_array(picture: Image | np.ndarray) -> np.ndarray:
    """Converts an image to `[height, width, 3]` from 0 to 1."""
    if isinstance(picture, np.ndarray):
        return picture
    return np.asarray(picture.convert("RGB"), dtype=np.float32) / 255


def displayable(pixel_values: Tensor, image_processor) -> np.ndarray:
    """Denormalises `[batch, 3, height, width]` to `[batch, height, width, 3]` from 0 to 1."""
    mean, std = (pixel_values.new_tensor(values).view(-1, 1, 1) for values in mean_and_std(image_processor))
    return (pixel_values * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy(force=True)


def mean_and_std(image_processor) -> tuple[Sequence[float], Sequence[float]]:
    """Returns a processor's mean and standard deviation; 0 and 1 if it does not normalise."""
    if getattr(image_processor, "do_normalize", False):
        return image_processor.image_mean, image_processor.image_std
    return [0.0] * 3, [1.0] * 3
