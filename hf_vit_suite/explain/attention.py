"""Attention of the class token, the step from tokens to picture."""

import torch
from torch import Tensor
from transformers import PreTrainedModel


@torch.no_grad()
def class_token_attention(model: PreTrainedModel, pixel_values: Tensor, layer: int = -1) -> Tensor:
    """How much the class token attends to each patch (Caron et al. 2021, arXiv 2104.14294, figure 1).

    Args:
        model: A model of the suite with a class token, under any attention backend.
        pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch.
        layer: Layer whose attention is taken, negative ones from the end; default the last.

    Returns:
        `[batch, heads, rows, columns]` on the patch grid; a head's map sums to what it does not give to the class,
        distillation and register tokens.

    Raises:
        ValueError: If the model is no plain vision transformer of the suite, or the layer does not exist.
    """
    config = model.config
    if not hasattr(config, "num_prefix_tokens"):
        raise ValueError(
            f"attention maps need a model of the suite with a class token (such as suite_vit), got {config.model_type}"
        )
    attentions = model(pixel_values, output_attentions=True, attention_layers=[layer]).attentions[0]
    rows, columns = (side // config.patch_size for side in pixel_values.shape[-2:])
    return attentions[:, :, 0, config.num_prefix_tokens :].unflatten(2, (rows, columns))  # (B, heads, N, N)
