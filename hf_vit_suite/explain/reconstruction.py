"""Reconstructions of masked patches by a masked autoencoder (He et al. 2021, arXiv 2111.06377, figure 2)."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..models.modeling_mae import SuiteMAEForPreTraining, normalised, target_pixels, unpatchify
from .figures import INCHES_A_PANEL, TEXT_COLOUR, displayable

GREY = 0.5


@torch.no_grad()
def reconstruct(model: SuiteMAEForPreTraining, pixel_values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Masks images and fills the masked patches with predictions; visible patches keep their pixels.

    A model with `norm_pix_loss` predicts normalised patches: they are denormalised with each patch's true mean and
    standard deviation.

    Args:
        model: In evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch size.
        noise: `[batch, patches]`; the patches with the smallest values stay visible.

    Returns:
        The images with predicted masked patches, and the mask (1 at masked pixels, 0 at others), both
        `[batch, channels, height, width]`.
    """
    patch_size = model.config.patch_size
    grid = model.vit.embeddings.patch_embeddings.grid(pixel_values)
    outputs = model(pixel_values, noise=noise)
    target = target_pixels(pixel_values, patch_size)
    predicted = outputs.logits.to(target.dtype)
    if model.config.norm_pix_loss:
        _, mean, deviation = normalised(target)
        predicted = predicted * deviation + mean
    is_masked = outputs.mask.bool().unsqueeze(-1).expand_as(target)
    painted = torch.where(is_masked, predicted, target)
    return unpatchify(painted, patch_size, grid), unpatchify(is_masked.to(target.dtype), patch_size, grid)


def visible_and_painted(
    model: SuiteMAEForPreTraining, pixel_values: Tensor, noise: Tensor, image_processor
) -> tuple[np.ndarray, np.ndarray, float]:
    """Images with masked patches grey and with them predicted, `[batch, height, width, 3]`, and the masked fraction.

    The arguments are those of `reconstruction_figure`.
    """
    painted, is_masked = reconstruct(model, pixel_values, noise)
    images = displayable(pixel_values, image_processor)
    visible = np.where(is_masked.bool().permute(0, 2, 3, 1).numpy(force=True), np.float32(GREY), images)
    return visible, displayable(painted, image_processor), is_masked.mean().item()


def reconstruction_figure(
    model: SuiteMAEForPreTraining, pixel_values: Tensor, noise: Tensor, image_processor
) -> Figure:
    """One row per image: the model input, its visible patches, and the reconstruction.

    Args:
        model: In evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised, on the model's device.
        noise: `[batch, patches]`, as in `reconstruct`.
        image_processor: Source of the mean and standard deviation for denormalisation.

    Returns:
        A matplotlib figure with a transparent background.
    """
    images = displayable(pixel_values, image_processor)
    visible, painted, share = visible_and_painted(model, pixel_values, noise, image_processor)
    panels = (images, visible, painted)
    names = ("image", f"{share:.0%} masked", "reconstruction")
    height = len(images)
    figure = Figure(figsize=(3 * INCHES_A_PANEL, INCHES_A_PANEL * height + 0.3), layout="constrained")
    axes = figure.subplots(height, 3, squeeze=False)
    for column, (panel, name) in enumerate(zip(panels, names, strict=True)):
        axes[0, column].set_title(name, fontsize=8, color=TEXT_COLOUR)
        for axis, image in zip(axes[:, column], panel, strict=True):
            axis.imshow(image)
            axis.set_axis_off()
    figure.patch.set_alpha(0)
    return figure
