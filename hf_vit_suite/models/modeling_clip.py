"""CLIP (Radford et al. 2021, arXiv 2103.00020): contrastive pretraining of an image tower and a text tower.

Shape flow (letters: see transformer.py; here also n text tokens, U text width, F projection width):
    pixels        [B, C, H, W] -> patches, class token, positions, norm         [B, N, D]
    image tower   encoder; norm and projection of the class token               [B, F]
    token ids     [B, n] -> token embeddings, positions                         [B, n, U]
    text tower    causal encoder; norm and projection of the end-of-text token  [B, F]
    similarities  cosines, times exp(logit_scale)                               [B, B], images x texts
    loss          softmax over rows and columns, or sigmoid of each pair        scalar
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput, can_return_tuple

from .clip_towers import AUTO_CLASSES as TOWER_AUTO_CLASSES
from .clip_towers import NOT_OF_IMAGES, NOT_OF_TEXTS, SuiteCLIPTextModel, SuiteCLIPVisionModel
from .configuration_clip import SuiteCLIPConfig, SuiteCLIPTextConfig, SuiteCLIPVisionConfig
from .contrastive import LOSSES, gathered_similarities, in_batch_accuracy, similarities
from .gradient_cache import cached_features
from .pretrained import SuitePreTrainedModel, join_auto_classes

# Upper bound of exp(logit_scale) (section 2.5).
LARGEST_SCALE = 100.0


@dataclass
class SuiteCLIPOutput(ModelOutput):
    """What `SuiteCLIPModel` returns.

    Args:
        loss: A scalar; `None` unless `return_loss`.
        logits_per_image: `[images, texts]`. In distributed training with a loss, the columns are those of all
            processes, and with `local_loss=False` the rows too.
        logits_per_text: `[texts, images]`, likewise.
        text_embeds: `[texts, projection]`, L2-normalised.
        image_embeds: `[images, projection]`, L2-normalised.
        accuracy: Fraction of the images whose own text is the most similar of the batch; `None` unless `return_loss`.
        text_model_output: The text tower's own output; `None` with `cached_batch_size`.
        vision_model_output: The image tower's own output; `last_hidden_state` holds only the class token unless
            attentions or hidden states are requested. `None` with `cached_batch_size`.
    """

    loss: Tensor | None = None
    logits_per_image: Tensor | None = None
    logits_per_text: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    accuracy: Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple:
        """The values that are not `None`, the towers' outputs converted to tuples."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class SuiteCLIPVisionOutput(ModelOutput):
    """What `SuiteCLIPVisionModelWithProjection` returns.

    Args:
        image_embeds: `[images, projection]`, not normalised.
        last_hidden_state: `[images, tokens, hidden]`, after the final norm.
        hidden_states: `[images, tokens, hidden]` of every requested layer.
        attentions: `[images, heads, tokens, tokens]` of every requested layer.
    """

    image_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class SuiteCLIPTextOutput(ModelOutput):
    """What `SuiteCLIPTextModelWithProjection` returns.

    Args:
        text_embeds: `[texts, projection]`, not normalised.
        last_hidden_state: `[texts, tokens, hidden]`, after the final norm.
        hidden_states: `[texts, tokens, hidden]` of every requested layer.
        attentions: `[texts, heads, tokens, tokens]` of every requested layer.
    """

    text_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class SuiteCLIPPreTrainedModel(SuitePreTrainedModel):
    """Initialisation of the projections and of the similarities' scale and bias; the towers have their own."""

    config_class = SuiteCLIPConfig
    base_model_prefix = "clip"
    input_modalities = ("image", "text")
    _no_split_modules = ["Embeddings", "TextEmbeddings", "Block"]  # noqa: RUF012 (transformers declares it so)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, SuiteCLIPModel):
            init.constant_(module.logit_scale, self.config.initial_logit_scale)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, self.config.logit_bias_init_value)


class SuiteCLIPModel(SuiteCLIPPreTrainedModel):
    """Both towers, their similarities and the loss."""

    main_input_name = "input_ids"

    def __init__(self, config: SuiteCLIPConfig):
        super().__init__(config)
        self.vision_model = SuiteCLIPVisionModel._from_config(config.vision_config)
        self.text_model = SuiteCLIPTextModel._from_config(config.text_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(config.initial_logit_scale))
        self.logit_bias = (
            nn.Parameter(torch.tensor(config.logit_bias_init_value)) if config.loss_type == "sigmoid" else None
        )
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        num_output_tokens: int | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `[images, channels, height, width]`, as in `SuiteViTModel`, likewise the other arguments.

        Returns:
            The image tower's output with `pooler_output` projected, `[images, projection]`, not normalised.
        """
        outputs = self.vision_model(
            pixel_values,
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers=attention_layers,
            num_output_tokens=num_output_tokens,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encodes texts.

        Args:
            input_ids: `[texts, tokens]`, as in `SuiteCLIPTextModel`, likewise the other arguments.

        Returns:
            The text tower's output with `pooler_output` projected, `[texts, projection]`, not normalised.
        """
        outputs = self.text_model(
            input_ids,
            attention_mask,
            position_ids,
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers=attention_layers,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        cached_batch_size: int | None = None,
        local_loss: bool = True,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteCLIPOutput:
        """Computes the similarities of images and texts, and the contrastive loss.

        Args:
            input_ids: `[texts, tokens]`, as in `SuiteCLIPTextModel`, likewise `attention_mask` and `position_ids`.
            pixel_values: `[images, channels, height, width]`, as in `SuiteViTModel`, likewise
                `interpolate_pos_encoding`.
            return_loss: Whether to return the loss; image i is paired with text i. In training it covers the pairs of
                all processes.
            cached_batch_size: Number of pairs whose activations are in memory at a time. Activations are recomputed in
                the backward pass; loss and gradients equal those of the whole batch (Gao et al. 2021,
                arXiv 2101.06983). Default all, without recomputation.
            local_loss: In distributed training, whether each process computes the rows of its own pairs (default) or
                of all pairs; the averaged gradients are equal.
            output_attentions: Of both towers, as in `SuiteViTModel`, likewise `output_hidden_states` and
                `attention_layers`; not with `cached_batch_size`.

        Raises:
            ValueError: If images or texts are missing, shapes don't fit, or `return_loss` is set and the numbers of
                images and texts differ.
        """
        self.check_inputs(kwargs, input_ids=input_ids, pixel_values=pixel_values)
        num_images, num_texts = pixel_values.shape[0], input_ids.shape[0]
        if return_loss and num_images != num_texts:
            raise ValueError(f"the loss needs pairs, got {num_images} images and {num_texts} texts")
        images = texts = None
        of_images = {"pixel_values": pixel_values, "interpolate_pos_encoding": interpolate_pos_encoding}
        of_texts = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        if cached_batch_size is None:
            wanted = {
                "output_attentions": output_attentions,
                "output_hidden_states": output_hidden_states,
                "attention_layers": attention_layers,
                "return_dict": True,
            }
            images = self.get_image_features(**of_images, **wanted, num_output_tokens=1)
            texts = self.get_text_features(**of_texts, **wanted)
            features = images.pooler_output, texts.pooler_output
        else:
            features = self.cached_features(of_images, of_texts, cached_batch_size)
        image_embeds, text_embeds = (F.normalize(feature, dim=-1) for feature in features)
        text_embeds = text_embeds.to(image_embeds.device)
        factor = self.logit_scale.exp().to(image_embeds.device)
        bias = None if self.logit_bias is None else self.logit_bias.to(image_embeds.device)
        arguments = (image_embeds, text_embeds, factor, bias)
        gathers = return_loss and self.training
        pairs = gathered_similarities(*arguments, local_loss) if gathers else similarities(*arguments)
        return SuiteCLIPOutput(
            loss=LOSSES[self.config.loss_type](pairs) if return_loss else None,
            logits_per_image=pairs.per_image,
            logits_per_text=pairs.per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            accuracy=in_batch_accuracy(pairs) if return_loss else None,
            text_model_output=texts,
            vision_model_output=images,
        )

    def cached_features(self, of_images: dict, of_texts: dict, size: int) -> tuple[Tensor, Tensor]:
        """Both towers' projected features, with activations of at most `size` samples in memory."""
        pixel_values = of_images.pop("pixel_values")
        input_ids = of_texts["input_ids"]
        # `cached_features` splits one tensor, so ids, mask and positions are stacked.
        names = [name for name, value in of_texts.items() if value is not None]
        stacked = torch.stack([of_texts[name].expand_as(input_ids) for name in names], dim=1)

        def encode_images(part: Tensor) -> Tensor:
            return self.get_image_features(part, **of_images, num_output_tokens=1, return_dict=True).pooler_output

        def encode_texts(part: Tensor) -> Tensor:
            arguments = dict(zip(names, part.unbind(1), strict=True))
            return self.get_text_features(**arguments, return_dict=True).pooler_output

        image_weights = chain(self.vision_model.parameters(), self.visual_projection.parameters())
        text_weights = chain(self.text_model.parameters(), self.text_projection.parameters())
        return (
            cached_features(encode_images, image_weights, pixel_values, size),
            cached_features(encode_texts, text_weights, stacked, size),
        )

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Clamps exp(logit_scale) to at most 100; call after an optimiser's step (section 2.5)."""
        self.logit_scale.clamp_(max=math.log(LARGEST_SCALE))


class SuiteCLIPVisionModelWithProjection(SuiteCLIPPreTrainedModel):
    """The image tower with its projection; also loads from a checkpoint of both towers."""

    config_class = SuiteCLIPVisionConfig
    base_model_prefix = "vision_model"
    input_modalities = ("image",)
    _keys_to_ignore_on_load_unexpected = NOT_OF_IMAGES

    def __init__(self, config: SuiteCLIPVisionConfig):
        super().__init__(config)
        self.vision_model = SuiteCLIPVisionModel._from_config(config)
        self.visual_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteCLIPVisionOutput:
        """Encodes images.

        Args:
            pixel_values: `[images, channels, height, width]`, as in `SuiteViTModel`, likewise the other arguments.
        """
        outputs = self.vision_model(
            pixel_values,
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers=attention_layers,
            return_dict=True,
            **kwargs,
        )
        return SuiteCLIPVisionOutput(
            image_embeds=self.visual_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class SuiteCLIPTextModelWithProjection(SuiteCLIPPreTrainedModel):
    """The text tower with its projection; also loads from a checkpoint of both towers."""

    config_class = SuiteCLIPTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "token_embeddings"
    _keys_to_ignore_on_load_unexpected = NOT_OF_TEXTS

    def __init__(self, config: SuiteCLIPTextConfig):
        super().__init__(config)
        self.text_model = SuiteCLIPTextModel._from_config(config)
        self.text_projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteCLIPTextOutput:
        """Encodes texts.

        Args:
            input_ids: `[texts, tokens]`, as in `SuiteCLIPTextModel`, likewise the other arguments.
        """
        outputs = self.text_model(
            input_ids,
            attention_mask,
            position_ids,
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers=attention_layers,
            return_dict=True,
            **kwargs,
        )
        return SuiteCLIPTextOutput(
            text_embeds=self.text_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


AUTO_CLASSES = (
    ("AutoModel", SuiteCLIPModel),
    ("AutoModelForZeroShotImageClassification", SuiteCLIPModel),
    *TOWER_AUTO_CLASSES,
)
join_auto_classes(AUTO_CLASSES, (SuiteCLIPVisionModelWithProjection, SuiteCLIPTextModelWithProjection))

__all__ = [
    "SuiteCLIPModel",
    "SuiteCLIPOutput",
    "SuiteCLIPTextModelWithProjection",
    "SuiteCLIPVisionModelWithProjection",
]
