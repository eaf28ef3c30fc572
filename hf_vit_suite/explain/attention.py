"""What the class token attends to, and how that spreads through the layers."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .encoders import as_picture, check_heads, image_encoder
from .observation import observed

FUSIONS = ("mean", "max", "min")


@torch.no_grad()
def class_token_attention(model: PreTrainedModel, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """How much the class token attends to each patch (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        model: With an image encoder that `image_encoder` knows, in evaluation mode, under any attention backend.
        pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch.
        layer: Layer whose attention is taken, negative ones from the end; default the last.

    Returns:
        `[batch, heads, rows, columns]` on the patch grid; a head's map sums to what it does not give to the class,
        distillation and register tokens.

    Raises:
        ValueError: If the model is none that is known, the layer does not exist, or the sides don't suit.
    """
    encoder = image_encoder(model)
    encoder.grid(pixel_values)
    rows = []

    def observe(weights: Tensor, _: None) -> None:
        rows.append(weights[:, :, 0].float())

    with observed(model, observe, [encoder.resolve_layer(layer)]) as watched:
        image_encoder(watched).encode(pixel_values)
    return encoder.on_grid(rows[0], pixel_values)


def attention_maps(
    model: PreTrainedModel, pixel_values: Tensor, layer: int = -1, head: int | None = None, resize: bool = True
) -> Tensor:
    """Attention of the class token as one map an image (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        model: As in `class_token_attention`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        layer: Default the last.
        head: Default the mean over heads.
        resize: Whether the maps have the images' resolution, else that of the patch grid.

    Returns:
        `[batch, height, width]`, or `[batch, rows, columns]`.

    Raises:
        ValueError: If the model is not known, or layer or head don't exist.
    """
    heads = class_token_attention(model, pixel_values, layer)
    check_heads(heads.shape[1], head)
    return as_picture(heads.mean(dim=1) if head is None else heads[:, head], pixel_values, resize)


def mass_masks(
    model: PreTrainedModel,
    pixel_values: Tensor,
    layer: int = -1,
    head: int | None = None,
    mass: float = 0.6,
    resize: bool = True,
) -> Tensor:
    """The fewest patches with a fraction of the class token's attention (Caron et al. 2021, figure 4, appendix C).

    Args:
        model: As in `class_token_attention`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        layer: Default the last.
        head: Default the mean over heads.
        mass: Fraction that is kept, above 0 and at most 1.
        resize: Whether the masks have the images' resolution, else that of the patch grid.

    Returns:
        True where a patch is kept, `[batch, height, width]`, or `[batch, rows, columns]`.

    Raises:
        ValueError: If the fraction is out of range, the model is not known, or layer or head don't exist.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be above 0 and at most 1, got {mass}")
    maps = attention_maps(model, pixel_values, layer, head, resize=False)
    shares = maps.flatten(1) / maps.flatten(1).sum(dim=1, keepdim=True)
    sorted_shares, order = shares.sort(dim=1, descending=True)
    # A patch is kept where those before it hold less than the fraction.
    is_kept = (sorted_shares.cumsum(dim=1) - sorted_shares) < mass
    masks = torch.zeros_like(is_kept).scatter(1, order, is_kept).view_as(maps)
    return as_picture(masks, pixel_values, resize)


@torch.no_grad()
def rollout(
    model: PreTrainedModel,
    pixel_values: Tensor,
    fusion: str = "mean",
    discard_ratio: float = 0.0,
    layer: int = -1,
    resize: bool = True,
) -> Tensor:
    """Attention followed through the layers, with half of each for the residual (Abnar and Zuidema 2020).

    Source: arXiv 2005.00928, section 3, attention rollout, eq. 1. One product `[tokens, tokens]` an image is kept,
    never a layer's heads.

    Args:
        model: As in `class_token_attention`.
        pixel_values: `[batch, channels, height, width]`.
        fusion: `"mean"` (the paper's), `"max"` or `"min"` over the heads.
        discard_ratio: Fraction of the smallest weights of each image and layer that are set to 0 after fusion, from 0
            (default, the paper's) to below 1.
        layer: Last layer that is followed, negative ones from the end.
        resize: Whether the maps have the images' resolution, else that of the patch grid.

    Returns:
        `[batch, height, width]`, or `[batch, rows, columns]`: of the class token, or where the model pools the
        patches of their mean.

    Raises:
        ValueError: If an option is out of range or the model is not known.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
    if not 0 <= discard_ratio < 1:
        raise ValueError(f"discard_ratio must be at least 0 and below 1, got {discard_ratio}")
    encoder = image_encoder(model)
    encoder.grid(pixel_values)
    product = None

    def observe(weights: Tensor, _: None) -> None:
        nonlocal product
        fused = fuse_heads(weights.float(), fusion)
        if dropped := int(discard_ratio * fused[0].numel()):
            smallest = fused.flatten(1).topk(dropped, dim=1, largest=False).indices
            fused = fused.flatten(1).scatter(1, smallest, 0.0).view_as(fused)
        step = fused + torch.eye(fused.shape[-1], device=fused.device)
        step = step / step.sum(dim=-1, keepdim=True)
        product = step if product is None else step @ product

    with observed(model, observe, range(encoder.resolve_layer(layer) + 1)) as watched:
        image_encoder(watched).encode(pixel_values)
    return as_picture(encoder.on_grid(encoder.readout(product) @ product, pixel_values), pixel_values, resize)


def fuse_heads(weights: Tensor, fusion: str) -> Tensor:
    """`[batch, heads, tokens, tokens]` -> `[batch, tokens, tokens]`."""
    return weights.mean(dim=1) if fusion == "mean" else getattr(weights, f"a{fusion}")(dim=1)
