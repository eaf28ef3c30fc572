"""The plain vision transformer: ViT, DeiT, the DINO and DINOv2 backbones, and CLIP's image tower.

Shape flow, N = prefix tokens + h * w (letters: see transformer.py):
    pixels        [B, C, H, W]
    patches       [B, h * w, C * P * P], projected                              [B, h * w, D]
    tokens        positions added, prefix tokens first, pre-norm if configured  [B, N, D]
    encoder       num_hidden_layers pre-norm blocks                             [B, N, D]
    norm, pool    class token or mean of the patch tokens                       [B, D]
    pre-logits    linear and tanh, if configured                                [B, representation]
    classifier    linear; with a distillation token, the mean of two heads      [B, labels]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig
from transformers.loss.loss_utils import ForSequenceClassificationLoss
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .backbone import TrunkBackbone
from .configuration_vit import SuiteViTConfig
from .embedding import Embeddings, sincos_position_table, whole_patches
from .pretrained import SuitePreTrainedModel, join_auto_classes
from .transformer import Encoder, LayerScale

# A classifier checkpoint also loads as a feature extractor, without a warning about its heads.
HEAD_KEYS = [r"^(distillation_)?classifier\."]


@dataclass
class SuiteViTImageClassifierOutput(ImageClassifierOutput):
    """`ImageClassifierOutput` with the logits of DeiT's two heads.

    Args:
        logits: `[batch, labels]`; with a distillation token the mean of both heads.
        class_logits: `[batch, labels]`, of the class token's head; `None` without distillation token.
        distillation_logits: `[batch, labels]`, of the distillation token's head; `None` without distillation token.
    """

    class_logits: Tensor | None = None
    distillation_logits: Tensor | None = None


class SuiteViTPreTrainedModel(SuitePreTrainedModel):
    """Initialisation shared by the ViT classes."""

    config_class = SuiteViTConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, self.config.layer_scale_init_value)
        elif isinstance(module, Embeddings):
            self._init_embeddings(module, std)

    def _init_embeddings(self, embeddings: Embeddings, std: float) -> None:
        for token in (embeddings.cls_token, embeddings.distillation_token, embeddings.register_tokens):
            if token is not None:
                init.trunc_normal_(token, std=std)
        if embeddings.mask_token is not None:
            init.zeros_(embeddings.mask_token)
        if self.config.position_embedding_type == "learned":
            init.trunc_normal_(embeddings.position_embeddings, std=std)
        else:
            prefix = embeddings.num_positioned_prefix_tokens
            table = sincos_position_table(*embeddings.grid, self.config.hidden_size, prefix)
            init.copy_(embeddings.position_embeddings, table)


class SuiteViTModel(SuiteViTPreTrainedModel):
    """The encoder: images to tokens and one pooled vector.

    Args:
        config: Model configuration.
        add_pooling_layer: Whether to compute `pooler_output`.
        use_mask_token: Whether to add a mask token even if the config has none.
    """

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: SuiteViTConfig, add_pooling_layer: bool = True, use_mask_token: bool = False):
        super().__init__(config)
        self.pools = add_pooling_layer
        self.embeddings = Embeddings(config, use_mask_token)
        self.pre_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_pre_norm else nn.Identity()
        )
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pre_logits = (
            nn.Sequential(nn.Linear(config.hidden_size, config.representation_size), nn.Tanh())
            if config.representation_size and add_pooling_layer
            else nn.Identity()
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        bool_masked_pos: Tensor | None = None,
        num_output_tokens: int | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `[batch, channels, height, width]`, normalised. Sides are multiples of the patch size;
                positions are resized to them.
            output_attentions: Whether to return attention weights, under any attention backend; default the config's.
            output_hidden_states: Whether to return every layer's tokens, or the indices of the layers to return, 0 for
                the embeddings (the others are `None`); default the config's.
            attention_layers: Layers whose weights are returned, e.g. `[-1]`; default all. The other layers keep the
                config's attention backend.
            bool_masked_pos: `[batch, patches]`, True where the mask token replaces the patch.
            num_output_tokens: The last layer computes only the first `num_output_tokens` tokens (the class token is
                the first). Default all; ignored unless `pooling="cls"`.
            interpolate_pos_encoding: Whether to accept sides that are not multiples of the patch size: the remainder
                is cropped, as in transformers' models. Positions are resized in any case.
            attention_mask: `[batch, tokens]`, prefix tokens included, 1 or True for the tokens to attend to; default
                all.
            return_dict: Whether to return a `ModelOutput` or a tuple; default the config's.
            **kwargs: Keywords of other models are accepted and ignored, with a warning.

        Returns:
            `last_hidden_state` `[batch, tokens, hidden]`, normalised for `pooling="cls"`, not normalised for `"mean"`,
            which applies the norm to the mean; `pooler_output` `[batch, hidden]`, or `[batch, representation]` after
            pre-logits, `None` without pooling layer; `hidden_states` and `attentions` if requested. With
            `return_dict=False` a tuple of these.

        Raises:
            ValueError: If images are missing, channels, sides or mask don't fit, or a layer doesn't exist.
        """
        self.check_inputs(kwargs, pixel_values=pixel_values)
        if interpolate_pos_encoding:
            pixel_values = whole_patches(pixel_values, self.config.patch_size)
        encoded = self.encoder(
            self.embed(pixel_values, bool_masked_pos),
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers,
            num_output_tokens if self.config.pooling == "cls" else None,
            attention_mask,
        )
        tokens, pooled = self.pool(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=pooled,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """`[batch, channels, height, width]` -> input of the first block, `[batch, tokens, hidden]`."""
        return self.pre_norm(self.embeddings(pixel_values, bool_masked_pos))

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The last block's `[batch, tokens, hidden]` -> returned tokens, same shape, and pooled `[batch, hidden]`."""
        if self.config.pooling == "mean":
            return tokens, self.pre_logits(self.norm(self.mean_of_patches(tokens))) if self.pools else None
        tokens = self.norm(tokens)
        return tokens, self.pre_logits(tokens[:, 0]) if self.pools else None

    def mean_of_patches(self, tokens: Tensor) -> Tensor:
        """Mean of the patch tokens: `[batch, tokens, hidden]` -> `[batch, hidden]`."""
        return tokens[:, self.config.num_prefix_tokens :].mean(dim=1)


def classification_loss(labels: Tensor, logits: Tensor, config: PreTrainedConfig, **kwargs) -> Tensor:
    """The loss named by `config.problem_type`; if that is `None`, transformers sets it from the labels.

    Args:
        labels: "single_label_classification": class indices `[batch]` or `[batch, 1]`, or probabilities
            `[batch, labels]`, as from mixup. "multi_label_classification", transformers' choice for floating-point
            labels: 0 or 1 per label, `[batch, labels]`. "regression", transformers' choice for a single label: values
            `[batch, labels]`.
        logits: `[batch, labels]`.
        config: Model configuration.
        **kwargs: As in transformers, `num_items_in_batch`, the divisor of the summed single-label loss.

    Returns:
        Cross-entropy, binary cross-entropy or mean squared error; a scalar.
    """
    labels = labels.to(logits.device)
    if config.problem_type == "single_label_classification" and labels.is_floating_point():
        return F.cross_entropy(logits, labels)
    if config.problem_type in ("regression", "multi_label_classification"):
        labels = labels.to(logits.dtype)
    return ForSequenceClassificationLoss(labels, logits, config, **kwargs)


class SuiteViTForImageClassification(SuiteViTPreTrainedModel):
    """The encoder with a linear head; with a distillation token two heads, whose mean logits are the prediction."""

    def __init__(self, config: SuiteViTConfig):
        super().__init__(config)
        self.loss_function = classification_loss
        self.vit = SuiteViTModel(config)
        self.classifier = self.make_head(config)
        self.distillation_classifier = self.make_head(config) if config.use_distillation_token else None
        self.post_init()

    @staticmethod
    def make_head(config: SuiteViTConfig) -> nn.Module:
        """A linear layer to the labels; without labels, the identity."""
        return nn.Linear(config.classifier_input_size, config.num_labels) if config.num_labels else nn.Identity()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteViTImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: `[batch, channels, height, width]`, as in `SuiteViTModel`.
            labels: As in `classification_loss`, which reads `config.problem_type`. `loss_function` can be replaced by
                another function with the same arguments.
            output_attentions: As in `SuiteViTModel`, likewise `output_hidden_states`, `attention_layers`,
                `return_dict` and, by keyword, `bool_masked_pos`, `interpolate_pos_encoding` and `attention_mask`.

        Returns:
            `loss` (mean over the batch) if labels are given, `logits` `[batch, labels]`, and with a distillation token
            the logits of each head.
        """
        _, output_hidden_states = self.wanted_outputs(output_attentions, output_hidden_states)
        outputs = self.vit(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=True if self.config.classifier_layers > 1 else output_hidden_states,
            attention_layers=attention_layers,
            num_output_tokens=None
            if self.config.classifier_patch_mean
            else 1 + int(self.config.use_distillation_token),
            return_dict=True,
            **kwargs,
        )
        class_logits = distillation_logits = None
        logits = self.classifier(self.classifier_features(outputs))
        if self.distillation_classifier is not None:
            class_logits = logits
            distillation_logits = self.distillation_classifier(outputs.last_hidden_state[:, 1]).to(logits.device)
            logits = (class_logits + distillation_logits) / 2
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **kwargs)
        hidden_states, returned = outputs.hidden_states, self.vit.encoder.resolve_hidden_states(output_hidden_states)
        if returned:
            hidden_states = tuple(state if layer in returned else None for layer, state in enumerate(hidden_states))
        return SuiteViTImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=hidden_states if returned else None,
            attentions=outputs.attentions,
            class_logits=class_logits,
            distillation_logits=distillation_logits,
        )

    def classifier_features(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """Input of the classifier, `[batch, features]`: class tokens of the last layers, then the patches' mean."""
        features = [outputs.pooler_output]
        if self.config.classifier_layers > 1:
            earlier = outputs.hidden_states[-self.config.classifier_layers : -1]
            features = [*(self.vit.norm(tokens[:, 0]) for tokens in earlier), *features]
        if self.config.classifier_patch_mean:
            features.append(self.vit.mean_of_patches(outputs.last_hidden_state))
        return torch.cat([feature.to(features[0].device) for feature in features], dim=-1)


class SuiteViTBackbone(TrunkBackbone, SuiteViTPreTrainedModel):
    """Feature maps for dense prediction, through `AutoBackbone`; `config.out_features` selects the stages."""

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: SuiteViTConfig):
        super().__init__(config)
        self.vit = SuiteViTModel(config)
        self.post_init()


AUTO_CLASSES = (
    ("AutoModel", SuiteViTModel),
    ("AutoModelForImageClassification", SuiteViTForImageClassification),
    ("AutoBackbone", SuiteViTBackbone),
)
join_auto_classes(AUTO_CLASSES)

__all__ = ["SuiteViTBackbone", "SuiteViTForImageClassification", "SuiteViTModel", "SuiteViTPreTrainedModel"]
