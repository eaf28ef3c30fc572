"""Finds the image encoder of a model, and maps its tokens to the patch grid and to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

# Module names of the blocks and of the final norm in transformers' own models, by model type.
BLOCKS_AND_NORMS = {
    "vit": ("layers", "layernorm"),
    "deit": ("layers", "layernorm"),
    "dinov2": ("encoder.layer", "layernorm"),
    "dinov2_with_registers": ("encoder.layer", "layernorm"),
    "clip_vision_model": ("encoder.layers", "post_layernorm"),
}
SUITES_BLOCKS_AND_NORM = ("encoder.blocks", "norm")
# Models that resize position embeddings only with `interpolate_pos_encoding=True`.
ASK_FOR_RESIZED_POSITIONS = ("vit", "deit", "clip", "clip_vision_model")


@dataclass(frozen=True)
class ImageEncoder:
    """The vision transformer of a model; its tokens are prefix tokens, then patches in row-major order.

    Args:
        module: Module that encodes `pixel_values`.
        blocks: Its layers in order.
        norm: The norm after the last block.
        num_prefix_tokens: Number of class, distillation and register tokens, which precede the patches.
    """

    module: PreTrainedModel
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix_tokens: int

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def resolve_layer(self, layer: int) -> int:
        """Converts a layer index, negative ones from the end, to one from 0.

        Raises:
            ValueError: If the layer does not exist.
        """
        if not -self.depth <= layer < self.depth:
            raise ValueError(f"layer must be from {-self.depth} to {self.depth - 1}, got {layer}")
        return layer % self.depth

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Patch grid (rows, columns) of `[batch, channels, height, width]`.

        Raises:
            ValueError: If a side is no multiple of the patch size.
        """
        height, width = pixel_values.shape[-2:]
        side = self.module.config.patch_size
        if height % side or width % side or not height or not width:
            raise ValueError(f"image sides must be multiples of the patch size {side}, got {height} x {width} pixels")
        return height // side, width // side

    def encode(self, pixel_values: Tensor) -> None:
        """Runs the encoder for its hooks and observers and discards the output."""
        self.module(pixel_values, **forward_options(self.module.config))

    def readout(self, tokens: Tensor) -> Tensor:
        """Weights `[tokens]` of the tokens of `[..., tokens]` in the pooled features; they sum to 1."""
        weights = tokens.new_zeros(tokens.shape[-1])
        config = self.module.config
        if getattr(config, "pooling", "cls") == "mean":
            weights[self.num_prefix_tokens :] = 1
        else:
            weights[: 1 + int(getattr(config, "use_distillation_token", False))] = 1
        if getattr(config, "classifier_patch_mean", False):
            weights[self.num_prefix_tokens :] = 1 / (len(weights) - self.num_prefix_tokens)
        return weights / weights.sum()

    def on_grid(self, token_values: Tensor, pixel_values: Tensor) -> Tensor:
        """Drops the prefix tokens and reshapes `[..., tokens]` to `[..., rows, columns]`."""
        return token_values[..., self.num_prefix_tokens :].unflatten(-1, self.grid(pixel_values))


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """`[..., rows, columns]` on the patch grid -> `[..., height, width]`; bilinear, nearest for boolean masks."""
    flat = values.reshape(1, -1, *values.shape[-2:])
    if values.dtype == torch.bool:
        resized = F.interpolate(flat.float(), size=size, mode="nearest-exact").bool()
    else:
        resized = F.interpolate(flat.float(), size=size, mode="bilinear")
    return resized.reshape(*values.shape[:-2], *size)


def as_picture(values: Tensor, pixel_values: Tensor, resize: bool) -> Tensor:
    """Resizes a map on the patch grid to the images' resolution if `resize`, else returns it as is."""
    return resize_map(values, tuple(pixel_values.shape[-2:])) if resize else values


def image_encoder(model: PreTrainedModel) -> ImageEncoder:
    """Returns the image encoder of a model of the suite, or of transformers' ViT, DeiT, DINOv2 or CLIP.

    Raises:
        ValueError: If the architecture is not supported.
    """
    module = getattr(model, "vision_model", model.base_model)
    config = module.config
    if hasattr(config, "num_prefix_tokens"):
        blocks, norm = SUITES_BLOCKS_AND_NORM
    elif config.model_type in BLOCKS_AND_NORMS:
        blocks, norm = BLOCKS_AND_NORMS[config.model_type]
    else:
        known = ", ".join(BLOCKS_AND_NORMS)
        raise ValueError(f"explanations support the suite's models and transformers' {known}, not {config.model_type}")
    return ImageEncoder(module, module.get_submodule(blocks), module.get_submodule(norm), count_prefix_tokens(config))


def count_prefix_tokens(config: PretrainedConfig) -> int:
    """Number of tokens that precede the patches."""
    if hasattr(config, "num_prefix_tokens"):
        return config.num_prefix_tokens
    return 1 + int(config.model_type == "deit") + getattr(config, "num_register_tokens", 0)


def forward_options(config: PretrainedConfig) -> dict[str, bool]:
    """Keyword arguments of a forward pass at any image size; attention is observed, not returned."""
    options = {"output_attentions": False}
    if config.model_type in ASK_FOR_RESIZED_POSITIONS:
        options["interpolate_pos_encoding"] = True
    return options


def check_heads(heads: int, head: int | None) -> None:
    """Checks a head index.

    Raises:
        ValueError: If the head does not exist.
    """
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head must be from 0 to {heads - 1}, got {head}")


def check_targets(targets: Sequence | Tensor, pixel_values: Tensor) -> None:
    """Checks that there is one target class or text per image.

    Raises:
        ValueError: If their numbers differ.
    """
    if len(targets) != len(pixel_values):
        raise ValueError(f"each image needs its own target, got {len(targets)} for {len(pixel_values)} images")
