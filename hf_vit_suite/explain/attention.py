"""Attention of the class token in one layer, and attention rollout over layers."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .encoders import as_picture, check_heads, image_encoder
from .observation import observed

FUSIONS = ("mean", "max", "min")


@torch.no_grad()
def class_token_attention(model: PreTrainedModel, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """Attention of the class token to each patch (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        model: A model that `image_encoder` supports, in evaluation mode, with any attention backend.
        pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch size.
        layer: Layer index; negative ones count from the end; default the last.

    Returns:
        `[batch, heads, rows, columns]` on the patch grid. Each head's map sums to 1 minus its attention to the class,
        distillation and register tokens.

    Raises:
        ValueError: If the model is not supported, the layer does not exist, or a side is no multiple of the patch.
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
    """Attention of the class token as one map per image (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        model: As in `class_token_attention`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        layer: Default the last.
        head: Default the mean over heads.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`.

    Raises:
        ValueError: If the model is not supported, or layer or head don't exist.
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
    """Smallest set of patches with a fraction of the class token's attention (Caron et al. 2021, fig. 4, appendix C).

    Args:
        model: As in `class_token_attention`, likewise `pixel_values` and `layer`.
        pixel_values: `[batch, channels, height, width]`.
        layer: Default the last.
        head: Default the mean over heads.
        mass: Fraction of the attention to keep, above 0 and at most 1.
        resize: Resize the masks from the patch grid to the images' resolution.

    Returns:
        True at kept patches, `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`.

    Raises:
        ValueError: If the fraction is out of range, the model is not supported, or layer or head don't exist.
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass must be above 0 and at most 1, got {mass}")
    maps = attention_maps(model, pixel_values, layer, head, resize=False)
    shares = maps.flatten(1) / maps.flatten(1).sum(dim=1, keepdim=True)
    sorted_shares, order = shares.sort(dim=1, descending=True)
    # A patch is kept if the patches sorted before it sum to less than the fraction.
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
    """Attention rollout: the product of the layers' attention, each plus the identity, with rows normalised.

    Source: Abnar and Zuidema 2020, arXiv 2005.00928, section 3, eq. 1. Memory: one `[tokens, tokens]` product per
    image; the heads of earlier layers are not stored.

    Args:
        model: As in `class_token_attention`.
        pixel_values: `[batch, channels, height, width]`.
        fusion: `"mean"` (the paper's), `"max"` or `"min"` over the heads.
        discard_ratio: Fraction of the weights, the smallest per image and layer, set to 0 after fusion; from 0
            (default, the paper's) to below 1.
        layer: Last layer of the product; negative ones count from the end.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`: the class token's row, or for a model
        that pools patches the mean of their rows.

    Raises:
        ValueError: If an option is out of range or the model is not supported.
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
