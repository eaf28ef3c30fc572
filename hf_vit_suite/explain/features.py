"""Patch features: cosine similarity between patches, and the first three PCA components shown as RGB."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from .encoders import as_picture, image_encoder
from .twins import twin


@torch.no_grad()
def patch_features(model: PreTrainedModel, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """Patch tokens of a layer after the encoder's final norm.

    Args:
        model: A model that `image_encoder` supports, in evaluation mode.
        pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch size.
        layer: Layer index; negative ones count from the end; default the last.

    Returns:
        `[batch, hidden, rows, columns]`, float32.

    Raises:
        ValueError: If the model is not supported, the layer does not exist, or a side is no multiple of the patch.
    """
    encoder = image_encoder(twin(model))
    encoder.grid(pixel_values)
    outputs = []
    encoder.blocks[encoder.resolve_layer(layer)].register_forward_hook(
        lambda module, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    encoder.encode(pixel_values)
    return encoder.on_grid(encoder.norm(outputs[0]).float().transpose(1, 2), pixel_values)


def patch_similarity(
    model: PreTrainedModel, pixel_values: Tensor, point: tuple[int, int], layer: int = -1, resize: bool = True
) -> Tensor:
    """Cosine similarity of each patch with a chosen patch (Amir et al. 2021, arXiv 2112.05814, section 3).

    Args:
        model: As in `patch_features`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        point: A pixel (x, y) in the chosen patch, from the left and from the top of the images.
        layer: Default the last.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`, from -1 to 1.

    Raises:
        ValueError: If the point is outside the images, or as in `patch_features`.
    """
    height, width = pixel_values.shape[-2:]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"point must be within the image of {width} x {height} pixels, got {x}, {y}")
    features = F.normalize(patch_features(model, pixel_values, layer), dim=1)
    rows, columns = features.shape[-2:]
    chosen = features[:, :, y * rows // height, x * columns // width]
    return as_picture(torch.einsum("bdhw,bd->bhw", features, chosen), pixel_values, resize)


def patch_pca(
    model: PreTrainedModel, pixel_values: Tensor, components: int = 3, layer: int = -1, resize: bool = True
) -> Tensor:
    """PCA of patch features, fitted on all images together (Oquab et al. 2023, arXiv 2304.07193, figure 1).

    Args:
        model: As in `patch_features`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        components: Number of components, largest variance first.
        layer: Default the last.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, components, height, width]`, or `[batch, components, rows, columns]`; `as_colours` maps three to RGB.

    Raises:
        ValueError: If there are fewer patches or features than components, or as in `patch_features`.
    """
    projected = principal_components(list(patch_features(model, pixel_values, layer)), components)
    return as_picture(torch.stack(projected), pixel_values, resize)


def principal_components(features: Sequence[Tensor], components: int = 3) -> list[Tensor]:
    """Projects patch features on the principal components of all images, which may differ in size.

    Args:
        features: `[hidden, rows, columns]` per image.
        components: Number of components.

    Returns:
        `[components, rows, columns]` per image, float32. Signs are fixed: each component's loading of largest
        absolute value is positive.

    Raises:
        ValueError: If there are fewer patches or features than components.
    """
    # On the CPU: not every accelerator supports float64.
    patches = torch.cat([image.flatten(1).cpu() for image in features], dim=1).T.double()  # (D, h, w) -> (N, D)
    if not 1 <= components <= min(patches.shape):
        raise ValueError(f"components must be from 1 to {min(patches.shape)}, got {components}")
    mean = patches.mean(dim=0)
    directions = torch.linalg.svd(patches - mean, full_matrices=False).Vh[:components]
    # The sign of a component is arbitrary; fixing it makes figures reproducible.
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    projected = (patches - mean) @ (directions * signs).T
    parts = projected.float().to(features[0].device).split([image.shape[1:].numel() for image in features])
    return [part.T.unflatten(1, image.shape[1:]) for part, image in zip(parts, features, strict=True)]


def as_colours(projected: Sequence[Tensor]) -> list[Tensor]:
    """Scales three components per image, `[3, height, width]`, to RGB from 0 to 1, with one scale for all images."""
    values = torch.cat([image.flatten(1) for image in projected], dim=1)
    # Percentiles, as a few outliers would compress the colours of all other patches.
    low, high = (values.quantile(share, dim=1).view(3, 1, 1) for share in (0.01, 0.99))
    return [((image - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) for image in projected]
