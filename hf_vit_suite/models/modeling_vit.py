"""The plain vision transformer: ViT, DeiT, the DINO and DINOv2 backbones, and CLIP's image tower.

Shape flow (B batch, C channels, H W image, p patch side, N = prefix + H/p * W/p tokens, D width, K labels):
    pixels        [B, C, H, W]
    patches       [B, H/p * W/p, C * p * p] -> projected [B, H/p * W/p, D]
    tokens        class, distillation, registers in front, positions added, norm where configured   [B, N, D]
    encoder       num_hidden_layers pre-norm blocks                             [B, N, D]
    norm, pool    class token or mean of the patches                            [B, D]
    pre-logits    where configured, linear and tanh                             [B, representation]
    classifier    [B, K]; with a distillation token a second one, and the mean of both
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput, BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils.generic import can_return_tuple

from .configuration_vit import SuiteViTConfig
from .embedding import Embeddings, sincos_position_table
from .pretrained import SuitePreTrainedModel, join_auto_classes
from .transformer import Encoder, LayerScale

# A classifier's folder opens as a feature extractor too, without a warning about its heads.
HEAD_KEYS = [r"^(distillation_)?classifier\."]


@dataclass
class SuiteViTImageClassifierOutput(ImageClassifierOutput):
    """`ImageClassifierOutput` with the two heads of DeiT apart.

    Args:
        logits: `[batch, labels]`; with a distillation token the mean of both heads.
        class_logits: The class token's head; `None` without distillation token.
        distillation_logits: The distillation token's head; `None` without distillation token.
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
    """The encoder: images to tokens and one pooled vector."""

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: SuiteViTConfig):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.pre_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.use_pre_norm else nn.Identity()
        )
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pre_logits = (
            nn.Sequential(nn.Linear(config.hidden_size, config.representation_size), nn.Tanh())
            if config.representation_size
            else nn.Identity()
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        attention_layers: Sequence[int] | None = None,
        bool_masked_pos: Tensor | None = None,
        num_output_tokens: int | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encodes images.

        Args:
            pixel_values: `[batch, channels, height, width]`, normalised; any size whose sides are multiples of the
                patch size, as positions are resized to it.
            output_attentions: Whether to return attention weights, under any attention backend; default the config's.
            output_hidden_states: Whether to return every layer's tokens; default the config's.
            attention_layers: Layers whose weights are returned, e.g. `[-1]`; default all. The others stay on the fast
                path.
            bool_masked_pos: `[batch, patches]`, True where the mask token replaces the patch.
            num_output_tokens: Only the first so many tokens of the result are wanted (the class token is the first):
                the last layer skips the others. Default all; only for `pooling="cls"`.

        Returns:
            `last_hidden_state` `[batch, tokens, hidden]`, normalised for `pooling="cls"` and plain for `"mean"`, where
            the norm acts on the mean; `pooler_output` `[batch, hidden]`, or `[batch, representation]` behind the
            pre-logits; `hidden_states` and `attentions` where asked for. With `return_dict=False` a tuple of these.

        Raises:
            ValueError: If channels or sides don't suit the model, or a layer doesn't exist.
        """
        encoded = self.encoder(
            self.embed(pixel_values, bool_masked_pos),
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers,
            num_output_tokens if self.config.pooling == "cls" else None,
        )
        tokens, pooled = self.pool(encoded.last_hidden_state)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=pooled,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """`[batch, channels, height, width]` -> what the first block sees, `[batch, tokens, hidden]`."""
        return self.pre_norm(self.embeddings(pixel_values, bool_masked_pos))

    def pool(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The last block's `[batch, tokens, hidden]` -> tokens to return and the pooled `[batch, hidden]`."""
        if self.config.pooling == "mean":
            return tokens, self.pre_logits(self.norm(self.mean_of_patches(tokens)))
        tokens = self.norm(tokens)
        return tokens, self.pre_logits(tokens[:, 0])

    def mean_of_patches(self, tokens: Tensor) -> Tensor:
        """`[batch, tokens, hidden]` -> `[batch, hidden]`."""
        return tokens[:, self.config.num_prefix_tokens :].mean(dim=1)


class SuiteViTForImageClassification(SuiteViTPreTrainedModel):
    """The encoder with a linear head; with a distillation token two heads, whose mean is the prediction."""

    def __init__(self, config: SuiteViTConfig):
        super().__init__(config)
        self.vit = SuiteViTModel(config)
        self.classifier = self.make_head(config)
        self.distillation_classifier = self.make_head(config) if config.use_distillation_token else None
        self.post_init()

    @staticmethod
    def make_head(config: SuiteViTConfig) -> nn.Module:
        """A linear layer to the labels; with none, the features themselves."""
        return nn.Linear(config.classifier_input_size, config.num_labels) if config.num_labels else nn.Identity()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        attention_layers: Sequence[int] | None = None,
    ) -> SuiteViTImageClassifierOutput:
        """Classifies images.

        Args:
            pixel_values: `[batch, channels, height, width]`, as in `SuiteViTModel`.
            labels: `[batch]` class numbers, or `[batch, labels]` probabilities as mixup gives; with
                `config.problem_type` "regression" or "multi_label_classification" float targets `[batch, labels]`.
            output_attentions: As in `SuiteViTModel`, likewise `output_hidden_states` and `attention_layers`.

        Returns:
            `loss` (mean over the batch) where labels are given, `logits` `[batch, labels]`, and the heads' own logits
            where there are two.
        """
        _, output_hidden_states = self.wanted_outputs(output_attentions, output_hidden_states)
        outputs = self.vit(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states or self.config.classifier_layers > 1,
            attention_layers=attention_layers,
            num_output_tokens=None
            if self.config.classifier_patch_mean
            else 1 + int(self.config.use_distillation_token),
            return_dict=True,
        )
        class_logits = distillation_logits = None
        logits = self.classifier(self.classifier_features(outputs))
        if self.distillation_classifier is not None:
            class_logits = logits
            distillation_logits = self.distillation_classifier(outputs.last_hidden_state[:, 1])
            logits = (class_logits + distillation_logits) / 2
        return SuiteViTImageClassifierOutput(
            loss=self.compute_loss(logits, labels) if labels is not None else None,
            logits=logits,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
            class_logits=class_logits,
            distillation_logits=distillation_logits,
        )

    def classifier_features(self, outputs: BaseModelOutputWithPooling) -> Tensor:
        """What the classifier reads, `[batch, features]`: class tokens of the last layers, then the patches' mean."""
        features = [outputs.pooler_output]
        if self.config.classifier_layers > 1:
            earlier = outputs.hidden_states[-self.config.classifier_layers : -1]
            features = [*(self.vit.norm(tokens[:, 0]) for tokens in earlier), *features]
        if self.config.classifier_patch_mean:
            features.append(self.vit.mean_of_patches(outputs.last_hidden_state))
        return torch.cat(features, dim=-1)

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with class numbers or probabilities, or what `config.problem_type` names; a scalar."""
        if self.config.problem_type == "regression":
            return F.mse_loss(logits, labels.view_as(logits).to(logits.dtype))
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return F.cross_entropy(logits, labels)


class SuiteViTBackbone(BackboneMixin, SuiteViTPreTrainedModel):
    """Feature maps for dense prediction, through `AutoBackbone`; stages are chosen by `config.out_features`."""

    _keys_to_ignore_on_load_unexpected = HEAD_KEYS

    def __init__(self, config: SuiteViTConfig):
        super().__init__(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.vit = SuiteViTModel(config)
        self.post_init()

    # transformers' properties read what a person set, and not the default.
    @property
    def out_features(self) -> list[str]:
        """Names of the stages that a call returns, as `config.out_features`."""
        return self.config.out_features

    @out_features.setter
    def out_features(self, out_features: list[str] | None) -> None:
        self.config.out_features = out_features

    @property
    def out_indices(self) -> list[int]:
        """Numbers of the stages that a call returns, as `config.out_indices`."""
        return self.config.out_indices

    @out_indices.setter
    def out_indices(self, out_indices: list[int] | tuple[int, ...] | None) -> None:
        self.config.out_indices = out_indices

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        attention_layers: Sequence[int] | None = None,
    ) -> BackboneOutput:
        """Computes feature maps.

        Args:
            pixel_values: `[batch, channels, height, width]`, as in `SuiteViTModel`.
            output_attentions: As in `SuiteViTModel`, likewise `output_hidden_states` and `attention_layers`.

        Returns:
            `feature_maps`, normalised, one `[batch, hidden, rows, columns]` for each of `out_features`.
        """
        outputs = self.vit(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=True,
            attention_layers=attention_layers,
            return_dict=True,
        )
        _, output_hidden_states = self.wanted_outputs(output_attentions, output_hidden_states)
        grid = self.vit.embeddings.patch_embeddings.grid(pixel_values)
        chosen = self.out_features
        patches = [
            self.vit.norm(tokens)[:, self.config.num_prefix_tokens :]
            for stage, tokens in zip(self.stage_names, outputs.hidden_states, strict=True)
            if stage in chosen
        ]
        return BackboneOutput(
            feature_maps=tuple(tokens.transpose(1, 2).unflatten(2, grid) for tokens in patches),  # (B, D, h, w)
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions,
        )


AUTO_CLASSES = (
    ("AutoModel", SuiteViTModel),
    ("AutoModelForImageClassification", SuiteViTForImageClassification),
    ("AutoBackbone", SuiteViTBackbone),
)
join_auto_classes(AUTO_CLASSES)

__all__ = ["SuiteViTBackbone", "SuiteViTForImageClassification", "SuiteViTModel", "SuiteViTPreTrainedModel"]
