"""Masked autoencoder (He et al. 2021, arXiv 2111.06377): encodes visible patches, predicts pixels of masked ones.

Shape flow (letters: see transformer.py; here also V visible patches, M = h * w - V masked patches, E decoder width):
    pixels        [B, C, H, W]
    mask          random patch indices, visible and masked                      [B, V], [B, M]
    encode        class token and visible patches, blocks, norm                 [B, 1 + V, D]
    decode        mask tokens, visible tokens, class token, blocks, norm        [B, M + V + 1, E]
    predict       pixels of the masked patches                                  [B, M, P * P * C]
    loss          mean squared error to their pixels, raw or normalised         scalar
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, can_return_tuple

from .backbone import TrunkBackbone
from .configuration_mae import SuiteMAEConfig
from .embedding import (
    Embeddings,
    patchify,
    resize_position_table,
    sincos_position_table,
    take_tokens,
    whole_patches,
)
from .pretrained import SuitePreTrainedModel, join_auto_classes
from .transformer import Encoder

DECODER_KEYS = [r"^decoder\."]
# Avoids division by zero in patches of uniform colour; value of the paper's code.
PIXEL_VARIANCE_EPSILON = 1e-6


@dataclass
class SuiteMAEForPreTrainingOutput(ModelOutput):
    """What pretraining returns.

    Args:
        loss: Mean squared error over the pixels of the masked patches.
        logits: `[batch, patches, patch_size * patch_size * channels]`, the predicted pixels of each masked patch,
            ordered by row, column, channel; zero at visible patches unless `predict_visible`.
        mask: `[batch, patches]`, 1 for masked patches, 0 for visible ones.
        ids_restore: `[batch, patches]`, index of each patch in the order visible patches, as encoded, then masked
            patches.
        hidden_states: The encoder's, `[batch, 1 + visible, hidden]` each.
        attentions: The encoder's, `[batch, heads, 1 + visible, 1 + visible]` each.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    ids_restore: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def target_pixels(pixel_values: Tensor, patch_size: int) -> Tensor:
    """Cuts images into flat patches, channel last within a patch, as in the predictions.

    Args:
        pixel_values: `[batch, channels, height, width]`; sides are multiples of `patch_size`.

    Returns:
        `[batch, patches, patch_size * patch_size * channels]`.
    """
    patches = patchify(pixel_values, patch_size).unflatten(2, (-1, patch_size * patch_size))
    return patches.transpose(2, 3).flatten(2)  # (B, h * w, C, P * P) -> (B, h * w, P * P * C)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of `target_pixels`.

    Args:
        patches: `[batch, rows * columns, patch_size * patch_size * channels]`.
        grid: (rows, columns) of patches.

    Returns:
        `[batch, channels, rows * patch_size, columns * patch_size]`.
    """
    pixels = patches.unflatten(1, grid).unflatten(3, (patch_size, patch_size, -1))
    return pixels.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, h, w, P, P, C) -> (B, C, H, W)


def normalised(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalises each patch's pixels to mean 0 and variance 1 (section 3).

    Args:
        patches: `[batch, patches, pixels]`.

    Returns:
        Normalised patches, same shape; their mean and standard deviation, `[batch, patches, 1]` each.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    deviation = (variance + PIXEL_VARIANCE_EPSILON).sqrt()
    return (patches - mean) / deviation, mean, deviation


class DecoderConfig:
    """View of a MAE config for the decoder's blocks: decoder sizes under the field names that `Encoder` reads.

    Every other field is read from the config itself, so a later change of its attention backend applies here too.
    """

    def __init__(self, config: SuiteMAEConfig):
        self.config = config
        self.hidden_size = config.decoder_hidden_size
        self.num_hidden_layers = config.decoder_num_hidden_layers
        self.num_attention_heads = config.decoder_num_attention_heads
        self.intermediate_size = config.decoder_intermediate_size

    def __getattr__(self, name: str):
        if name == "config" or name.startswith("__"):  # copying reads these before `config` is set
            raise AttributeError(name)
        return getattr(self.config, name)


class Decoder(nn.Module):
    """Predicts the pixels of masked patches from the encoder's tokens (section 3)."""

    def __init__(self, config: SuiteMAEConfig):
        super().__init__()
        width = config.decoder_hidden_size
        self.grid = config.grid_height_width
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(
            torch.zeros(1, 1 + self.grid[0] * self.grid[1], width), requires_grad=False
        )
        self.trunk = Encoder(DecoderConfig(config))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.predict = nn.Linear(width, config.patch_size**2 * config.num_channels)

    def forward(
        self, encoded: Tensor, visible: Tensor, masked: Tensor, grid: tuple[int, int], predict_visible: bool = False
    ) -> Tensor:
        """Predicts pixels.

        Args:
            encoded: `[batch, 1 + visible, hidden]`, class token first, then the patches in the order of `visible`.
            visible: `[batch, visible]`, indices of the visible patches; `masked` `[batch, masked]`, of the others.
            grid: (rows, columns) of the image's patches.
            predict_visible: Whether to predict the visible patches too.

        Returns:
            `[batch, masked, patch_size * patch_size * channels]`; with `predict_visible` the visible
            patches follow, `[batch, masked + visible, ...]`.
        """
        class_position, positions = self.position_embeddings.detach().tensor_split([1], dim=1)
        positions = resize_position_table(positions, self.grid, grid)[0]
        class_token, seen = self.embed(encoded).tensor_split([1], dim=1)
        # Attention does not depend on token order: with the predicted tokens first, the last block skips the others.
        tokens = torch.cat(
            (self.mask_token + positions[masked], seen + positions[visible], class_token + class_position), dim=1
        )
        num_predicted = masked.shape[1] + (visible.shape[1] if predict_visible else 0)
        decoded = self.trunk(tokens, num_output_tokens=num_predicted).last_hidden_state
        return self.predict(self.norm(decoded))


class SuiteMAEPreTrainedModel(SuitePreTrainedModel):
    """Initialisation shared by the MAE classes (appendix A.1)."""

    config_class = SuiteMAEConfig
    _no_split_modules = [*SuitePreTrainedModel._no_split_modules, "Decoder"]  # noqa: RUF012 (as transformers has it)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            # Xavier uniform; a patch projection is initialised as a linear layer.
            bound = math.sqrt(6 / (module.weight.shape[0] + module.weight[0].numel()))
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (Embeddings, Decoder)):
            token = module.cls_token if isinstance(module, Embeddings) else module.mask_token
            init.normal_(token, std=self.config.initializer_range)
            table = sincos_position_table(*module.grid, token.shape[-1], num_prefix_tokens=1)
            init.copy_(module.position_embeddings, table)


class SuiteMAEModel(SuiteMAEPreTrainedModel):
    """The encoder without masking: images to tokens and a pooled vector."""

    _keys_to_ignore_on_load_unexpected = DECODER_KEYS

    def __init__(self, config: SuiteMAEConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        visible: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `[batch, channels, height, width]`, as in `SuiteViTModel`, likewise the other arguments.
            visible: `[batch, visible]`, indices of the patches to encode; default all. `attention_mask` then covers
                the class token and these patches.

        Returns:
            `last_hidden_state` `[batch, 1 + patches, hidden]`, normalised, class token first; `pooler_output`
            `[batch, hidden]`, the class token; `hidden_states` and `attentions` if requested.

        Raises:
            ValueError: If images are missing, channels, sides or mask don't fit, a layer doesn't exist, or `noise` is
                given, an argument of `SuiteMAEForPreTraining`.
        """
        if kwargs.get("noise") is not None:
            raise ValueError("SuiteMAEModel does not mask: pass visible=..., or noise to SuiteMAEForPreTraining")
        self.check_inputs(kwargs, pixel_values=pixel_values)
        if interpolate_pos_encoding:
            pixel_values = whole_patches(pixel_values, self.config.patch_size)
        encoded = self.encoder(
            self.embeddings(pixel_values, visible=visible),
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers,
            attention_mask=attention_mask,
        )
        tokens = self.norm(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=tokens[:, 0],
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class SuiteMAEForPreTraining(SuiteMAEPreTrainedModel):
    """The masked autoencoder: encoder, decoder and loss."""

    def __init__(self, config: SuiteMAEConfig):
        super().__init__(config)
        self.vit = SuiteMAEModel(config)
        self.decoder = Decoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        predict_visible: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteMAEForPreTrainingOutput:
        """Masks images and reconstructs them.

        Args:
            pixel_values: `[batch, channels, height, width]`, normalised; sides are multiples of the patch size.
            noise: `[batch, patches]`; the patches with the smallest values stay visible. Default uniform random.
            predict_visible: Whether to predict the visible patches too; the loss does not use them.
            output_attentions: Of the encoder, as in `SuiteMAEModel`, likewise `output_hidden_states` and
                `attention_layers`.
            interpolate_pos_encoding: As in `SuiteViTModel`, likewise `return_dict`.

        Raises:
            ValueError: If images are missing, channels, sides or the noise's shape don't fit, or no patch would be
                visible or masked.
        """
        self.check_inputs(kwargs, pixel_values=pixel_values)
        if interpolate_pos_encoding:
            pixel_values = whole_patches(pixel_values, self.config.patch_size)
        grid = self.vit.embeddings.patch_embeddings.grid(pixel_values)
        visible, masked = self.random_masking(pixel_values, grid, noise)
        encoded = self.vit(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            attention_layers=attention_layers,
            visible=visible,
            return_dict=True,
        )
        predicted = self.decoder(encoded.last_hidden_state, visible, masked, grid, predict_visible)
        visible, masked = visible.to(predicted.device), masked.to(predicted.device)
        numbers = torch.cat((masked, visible), dim=1)[:, : predicted.shape[1]]
        places = predicted.new_zeros(predicted.shape[0], grid[0] * grid[1], predicted.shape[2])
        return SuiteMAEForPreTrainingOutput(
            loss=self.compute_loss(pixel_values, predicted[:, : masked.shape[1]], masked),
            logits=places.scatter(1, numbers.unsqueeze(-1).expand_as(predicted), predicted),
            mask=places.new_zeros(places.shape[:2]).scatter(1, masked, 1),
            ids_restore=torch.cat((visible, masked), dim=1).argsort(dim=1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def patchify(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        """Cuts images into patches in the layout of `logits`; the inverse of `unpatchify`.

        Args:
            pixel_values: `[batch, channels, height, width]`.
            interpolate_pos_encoding: Whether to crop sides to multiples of the patch size.

        Returns:
            `[batch, patches, patch_size * patch_size * channels]`.

        Raises:
            ValueError: If channels or sides don't fit.
        """
        if interpolate_pos_encoding:
            pixel_values = whole_patches(pixel_values, self.config.patch_size)
        self.vit.embeddings.patch_embeddings.grid(pixel_values)
        return target_pixels(pixel_values, self.config.patch_size)

    def unpatchify(self, patches: Tensor, original_image_size: tuple[int, int] | None = None) -> Tensor:
        """Reassembles images from patches.

        Args:
            patches: `[batch, patches, patch_size * patch_size * channels]`, in the layout of `logits`, whose visible
                patches are zero unless `predict_visible`.
            original_image_size: (height, width) in pixels; default the config's.

        Returns:
            `[batch, channels, height, width]`, cropped to whole patches.

        Raises:
            ValueError: If the number of patches does not match the image size.
        """
        size = self.config.patch_size
        height, width = original_image_size or self.config.image_height_width
        rows, columns = height // size, width // size
        if rows * columns != patches.shape[1]:
            raise ValueError(
                f"an image of {height} x {width} pixels has {rows * columns} patches, got {patches.shape[1]}: pass "
                "original_image_size=(height, width)"
            )
        return unpatchify(patches, size, (rows, columns))

    def random_masking(
        self, pixel_values: Tensor, grid: tuple[int, int], noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Splits patches by noise: indices `[batch, visible]` and `[batch, masked]`, both in ascending noise."""
        shape = (pixel_values.shape[0], grid[0] * grid[1])
        if noise is None:
            noise = torch.rand(shape, device=pixel_values.device)
        if noise.shape != shape:
            raise ValueError(f"noise must be [batch, patches] = {list(shape)}, got {list(noise.shape)}")
        visible = self.config.num_visible(shape[1])
        return noise.argsort(dim=1).split((visible, shape[1] - visible), dim=1)

    def compute_loss(self, pixel_values: Tensor, predicted: Tensor, masked: Tensor) -> Tensor:
        """Mean squared error of the masked patches' pixels, in float32 (section 3, "Reconstruction target").

        Args:
            pixel_values: `[batch, channels, height, width]`.
            predicted: `[batch, masked, patch_size * patch_size * channels]`.
            masked: `[batch, masked]`, indices of the patches.
        """
        patches = target_pixels(pixel_values, self.config.patch_size).to(predicted.device)
        target = take_tokens(patches, masked).float()
        if self.config.norm_pix_loss:
            target, _, _ = normalised(target)
        return F.mse_loss(predicted.float(), target)


class SuiteMAEBackbone(TrunkBackbone, SuiteMAEPreTrainedModel):
    """Feature maps of the encoder for dense prediction, through `AutoBackbone`."""

    _keys_to_ignore_on_load_unexpected = DECODER_KEYS

    def __init__(self, config: SuiteMAEConfig):
        super().__init__(config)
        self.vit = SuiteMAEModel(config)
        self.post_init()


AUTO_CLASSES = (
    ("AutoModel", SuiteMAEModel),
    ("AutoModelForPreTraining", SuiteMAEForPreTraining),
    ("AutoBackbone", SuiteMAEBackbone),
)
join_auto_classes(AUTO_CLASSES)

__all__ = [
    "SuiteMAEBackbone",
    "SuiteMAEForPreTraining",
    "SuiteMAEForPreTrainingOutput",
    "SuiteMAEModel",
    "SuiteMAEPreTrainedModel",
]
