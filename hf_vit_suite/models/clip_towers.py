"""The image and text tower of CLIP without projections (Radford et al. 2021, arXiv 2103.00020).

Both are built on `transformer.Encoder`. Either tower loads from a checkpoint of both.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .backbone import TrunkBackbone
from .configuration_clip import SuiteCLIPTextConfig, SuiteCLIPVisionConfig
from .embedding import Embeddings, take_tokens
from .modeling_vit import SuiteViTModel
from .pretrained import SuitePreTrainedModel, join_auto_classes
from .transformer import Encoder

TOKEN_STD = 0.02
TEXT_POSITION_STD = 0.01
NOT_OF_IMAGES = [r"^text_", r"^logit_"]
NOT_OF_TEXTS = [r"^vis", r"^logit_"]


class SuiteCLIPVisionModel(SuiteViTModel):
    """The image tower without its projection: a plain vision transformer with optional patch dropout in training."""

    config_class = SuiteCLIPVisionConfig
    base_model_prefix = "vision_model"
    _keys_to_ignore_on_load_unexpected = [*NOT_OF_IMAGES, r"^visual_projection"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            init.normal_(module.cls_token, std=self.config.hidden_size**-0.5)
            if self.config.position_embedding_type == "learned":
                init.normal_(module.position_embeddings, std=self.config.hidden_size**-0.5)

    def embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """As in `SuiteViTModel`; training drops a random fraction `patch_dropout` of each image's patches."""
        if not (self.training and self.config.patch_dropout):
            return super().embed(pixel_values, bool_masked_pos)
        rows, columns = self.embeddings.patch_embeddings.grid(pixel_values)
        kept = max(1, int(rows * columns * (1 - self.config.patch_dropout)))
        noise = torch.rand(pixel_values.shape[0], rows * columns, device=pixel_values.device)
        return self.pre_norm(self.embeddings(pixel_values, bool_masked_pos, noise.topk(kept).indices))


class TextEmbeddings(nn.Module):
    """Token embeddings with learned positions."""

    def __init__(self, config: SuiteCLIPTextConfig):
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.max_position_embeddings, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Embeds texts.

        Args:
            input_ids: `[texts, tokens]`.
            position_ids: `[texts or 1, tokens]`; default 0, 1, 2, ...

        Returns:
            `[texts, tokens, hidden]`.

        Raises:
            ValueError: If a text has more tokens than the position table.
        """
        tokens, most = input_ids.shape[1], self.position_embeddings.shape[1]
        if tokens > most:
            raise ValueError(f"a text may have {most} tokens, got {tokens}: pass truncation=True to the tokenizer")
        table = self.position_embeddings
        positions = table[:, :tokens] if position_ids is None else table[0, position_ids]
        return self.dropout(self.token_embeddings(input_ids) + positions)


class SuiteCLIPTextModel(SuitePreTrainedModel):
    """The text tower without its projection."""

    config_class = SuiteCLIPTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "token_embeddings"
    _keys_to_ignore_on_load_unexpected = [*NOT_OF_TEXTS, r"^text_projection"]  # noqa: RUF012
    _no_split_modules = ["TextEmbeddings", "Block"]  # noqa: RUF012 (transformers declares it as a plain list)

    def __init__(self, config: SuiteCLIPTextConfig):
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._plan_weights()
        self.post_init()

    def _plan_weights(self) -> None:
        """Stores each matrix's initial standard deviation, as in the paper's code: smaller at the end of a branch.

        transformers passes single layers to `_init_weights`, and these don't know their position in the model.
        """
        width = self.config.hidden_size
        end_of_branch = width**-0.5 * (2 * self.config.num_hidden_layers) ** -0.5
        for block in self.encoder.blocks:
            block.attention.qkv.initial_std = width**-0.5
            block.attention.proj.initial_std = end_of_branch
            block.mlp.fc1.initial_std = (2 * width) ** -0.5
            block.mlp.fc2.initial_std = end_of_branch

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.initial_std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, TextEmbeddings):
            init.normal_(module.token_embeddings.weight, std=TOKEN_STD)
            init.normal_(module.position_embeddings, std=TEXT_POSITION_STD)

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
    ) -> BaseModelOutputWithPooling:
        """Encodes texts.

        Args:
            input_ids: `[texts, tokens]`, each with the end-of-text token, padded after it.
            attention_mask: `[texts, tokens]`, 1 or True for the tokens to attend to; default all, which is faster.
                Causal attention never attends to padding after the end-of-text token, so padding needs no mask.
            position_ids: `[texts or 1, tokens]`; default 0, 1, 2, ...
            output_attentions: As in `SuiteViTModel`, likewise `output_hidden_states`, `attention_layers` and
                `return_dict`.

        Returns:
            `last_hidden_state` `[texts, tokens, hidden]`, normalised; `pooler_output` `[texts, hidden]`, the first
            end-of-text token; `hidden_states` and `attentions` if requested.

        Raises:
            ValueError: If texts are missing, one is too long, the mask doesn't fit, or a layer doesn't exist.
        """
        self.check_inputs(kwargs, input_ids=input_ids)
        encoded = self.encoder(
            self.embeddings(input_ids, position_ids),
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers,
            attention_mask=attention_mask,
        )
        tokens = self.norm(encoded.last_hidden_state)
        ends = (input_ids == self.config.eos_token_id).int().argmax(dim=1, keepdim=True).to(tokens.device)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=take_tokens(tokens, ends).squeeze(1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class SuiteCLIPVisionBackbone(TrunkBackbone, SuitePreTrainedModel):
    """Feature maps of the image tower for dense prediction, through `AutoBackbone`."""

    config_class = SuiteCLIPVisionConfig
    base_model_prefix = "vision_model"
    _keys_to_ignore_on_load_unexpected = [*NOT_OF_IMAGES, r"^visual_projection"]  # noqa: RUF012

    def __init__(self, config: SuiteCLIPVisionConfig):
        super().__init__(config)
        self.vision_model = SuiteCLIPVisionModel._from_config(config)
        self.post_init()


AUTO_CLASSES = (
    ("AutoModel", SuiteCLIPVisionModel),
    ("AutoBackbone", SuiteCLIPVisionBackbone),
    ("AutoModel", SuiteCLIPTextModel),
    ("AutoModelForTextEncoding", SuiteCLIPTextModel),
)
join_auto_classes(AUTO_CLASSES)

__all__ = ["SuiteCLIPTextModel", "SuiteCLIPVisionBackbone", "SuiteCLIPVisionModel"]
