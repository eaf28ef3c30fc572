"""The image encoder inside a model, and the mapping of its tokens to the patch grid and to pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

# Names of the blocks and of the final norm in transformers' own models, by model type.
BLOCKS_AND_NORMS = {
    "vit": ("layers", "layernorm"),
    "deit": ("layers", "layernorm"),
    "dinov2": ("encoder.layer", "layernorm"),
    "dinov2_with_registers": ("encoder.layer", "layernorm"),
    "clip_vision_model": ("encoder.layers", "post_layernorm"),
}
SUITES_BLOCKS_AND_NORM = ("encoder.blocks", "norm")
# Models whose forward resizes position embeddings only with `interpolate_pos_encoding`.
ASK_FOR_RESIZED_POSITIONS = ("vit", "deit", "clip", "clip_vision_model")


@dataclass(frozen=True)
class ImageEncoder:
    """A plain vision transformer inside a model: prefix tokens, then patches row by row.

    Args:
        module: Gives tokens for `pixel_values`.
        blocks: Its layers in order.
        norm: The norm behind the last block.
        num_prefix_tokens: Class, distillation and register tokens in front of the patches.
    """

    module: PreTrainedModel
    blocks: nn.ModuleList
    norm: nn.Module
    num_prefix_tokens: int

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.blocks)

    def resolve_layer(self, layer: int) -> int:
        """A layer's number from 0; negative ones count from the end.

        Raises:
            ValueError: If there is no such layer.
        """
        if not -self.depth <= layer < self.depth:
            raise ValueError(f"layer must be from {-self.depth} to {self.depth - 1}, got {layer}")
        return layer % self.depth

    def grid(self, pixel_values: Tensor) -> tuple[int, int]:
        """Rows and columns of the patches of `[batch, channels, height, width]`.

        Raises:
            ValueError: If the sides are no multiples of the patch.
        """
        height, width = pixel_values.shape[-2:]
        side = self.module.config.patch_size
        if height % side or width % side or not height or not width:
            raise ValueError(f"image sides must be multiples of the patch size {side}, got {height} x {width} pixels")
        return height // side, width // side

    def encode(self, pixel_values: Tensor) -> None:
        """Runs the encoder for its hooks and observers; the output is dropped."""
        self.module(pixel_values, **forward_options(self.module.config))

    def readout(self, tokens: Tensor) -> Tensor:
        """Weight of each token of `[..., tokens]` in the pooled features; the weights `[tokens]` sum to 1."""
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
        """Values of all tokens, `[..., tokens]`, as those of the patches, `[..., rows, columns]`."""
        return token_values[..., self.num_prefix_tokens :].unflatten(-1, self.grid(pixel_values))


def resize_map(values: Tensor, size: tuple[int, int]) -> Tensor:
    """`[..., rows, columns]` on the patch grid -> `[..., height, width]`: bilinear, and masks by the nearest patch."""
    flat = values.reshape(1, -1, *values.shape[-2:])
    if values.dtype == torch.bool:
        resized = F.interpolate(flat.float(), size=size, mode="nearest-exact").bool()
    else:
        resized = F.interpolate(flat.float(), size=size, mode="bilinear")
    return resized.reshape(*values.shape[:-2], *size)


def as_picture(values: Tensor, pixel_values: Tensor, resize: bool) -> Tensor:
    """A map on the patch grid, or where asked for at the resolution of the images."""
    return resize_map(values, tuple(pixel_values.shape[-2:])) if resize else values


def image_encoder(model: PreTrainedModel) -> ImageEncoder:
    """The image encoder of a model of the suite, or of transformers' ViT, DeiT, DINOv2 or CLIP.

    Raises:
        ValueError: If it has none whose tokens are known.
    """
    module = getattr(model, "vision_model", model.base_model)
    config = module.config
    if hasattr(config, "num_prefix_tokens"):
        blocks, norm = SUITES_BLOCKS_AND_NORM
    elif config.model_type in BLOCKS_AND_NORMS:
        blocks, norm = BLOCKS_AND_NORMS[config.model_type]
    else:
        known = ", ".join(BLOCKS_AND_NORMS)
        raise ValueError(
            f"explanations know the suite's models of patches and transformers' {known}, not {config.model_type}"
        )
    return ImageEncoder(module, module.get_submodule(blocks), module.get_submodule(norm), count_prefix_tokens(config))


def count_prefix_tokens(config: PretrainedConfig) -> int:
    """Tokens in front of the patches."""
    if hasattr(config, "num_prefix_tokens"):
        return config.num_prefix_tokens
    return 1 + int(config.model_type == "deit") + getattr(config, "num_register_tokens", 0)


def forward_options(config: PretrainedConfig) -> dict[str, bool]:
    """What a forward pass at any image size is called with; attentions are observed, not returned."""
    options = {"output_attentions": False}
    if config.model_type in ASK_FOR_RESIZED_POSITIONS:
        options["interpolate_pos_encoding"] = True
    return options


def check_heads(heads: int, head: int | None) -> None:
    """Checks a head's number.

    Raises:
        ValueError: If there is no such head.
    """
    if head is not None and not 0 <= head < heads:
        raise ValueError(f"head must be from 0 to {heads - 1}, got {head}")


def check_targets(targets: Sequence | Tensor, pixel_values: Tensor) -> None:
    """Checks that there is one class or text per image.

    Raises:
        ValueError: If their numbers differ.
    """
    if len(targets) != len(pixel_values):
        raise ValueError(f"each image needs its own target, got {len(targets)} for {len(pixel_values)} images")
