"""The two towers of CLIP without their projections, both on the trunk (Radford et al. 2021, arXiv 2103.00020)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple

from .configuration_clip import SuiteCLIPTextConfig, SuiteCLIPVisionConfig
from .embedding import Embeddings, take_tokens
from .modeling_vit import SuiteViTModel
from .pretrained import SuitePreTrainedModel
from .transformer import Encoder

TOKEN_STD = 0.02
TEXT_POSITION_STD = 0.01


class SuiteCLIPVisionModel(SuiteViTModel):
    """The image tower without its projection: a plain vision transformer that may leave patches out in training."""

    config_class = SuiteCLIPVisionConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Embeddings):
            init.normal_(module.cls_token, std=self.config.hidden_size**-0.5)
            if self.config.position_embedding_type == "learned":
                init.normal_(module.position_embeddings, std=self.config.hidden_size**-0.5)

    def embed(self, pixel_values: Tensor, bool_masked_pos: Tensor | None = None) -> Tensor:
        """As `SuiteViTModel`'s; in training without a random share `patch_dropout` of each image's patches."""
        if not (self.training and self.config.patch_dropout):
            return super().embed(pixel_values, bool_masked_pos)
        rows, columns = self.embeddings.patch_embeddings.grid(pixel_values)
        kept = max(1, int(rows * columns * (1 - self.config.patch_dropout)))
        noise = torch.rand(len(pixel_values), rows * columns, device=pixel_values.device)
        return self.pre_norm(self.embeddings(pixel_values, bool_masked_pos, noise.topk(kept).indices))


class TextEmbeddings(nn.Module):
    """Token embeddings with learned positions."""

    def __init__(self, config: SuiteCLIPTextConfig):
        super().__init__()
        self.token_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.max_position_embeddings, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor) -> Tensor:
        """`[texts, tokens]` -> `[texts, tokens, hidden]`.

        Raises:
            ValueError: If a text has more tokens than there are positions.
        """
        tokens, most = input_ids.shape[1], self.position_embeddings.shape[1]
        if tokens > most:
            raise ValueError(f"a text may have {most} tokens, got {tokens}: cut it by the tokenizer's truncation=True")
        return self.dropout(self.token_embeddings(input_ids) + self.position_embeddings[:, :tokens])


class SuiteCLIPTextModel(SuitePreTrainedModel):
    """The text tower without its projection."""

    config_class = SuiteCLIPTextConfig
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)
    _input_embed_layer = "token_embeddings"
    _no_split_modules = ["TextEmbeddings", "Block"]  # noqa: RUF012 (transformers declares it as a plain list)

    def __init__(self, config: SuiteCLIPTextConfig):
        super().__init__(config)
        self.embeddings = TextEmbeddings(config)
        self.encoder = Encoder(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self._plan_weights()
        self.post_init()

    def _plan_weights(self) -> None:
        """Notes the deviation that the paper's code starts each matrix with: smaller where branches end.

        transformers asks `_init_weights` about modules with weights of their own alone, which don't know their place.
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
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        attention_layers: Sequence[int] | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encodes texts.

        Args:
            input_ids: `[texts, tokens]`, each with the end-of-text token, and filled up behind it.
            attention_mask: Taken as tokenizers give it, and not needed: no token sees what fills up behind it.
            output_attentions: Whether to return attention weights, under any attention backend; default the config's.
            output_hidden_states: Whether to return every layer's tokens; default the config's.
            attention_layers: Layers whose weights are returned, e.g. `[-1]`; default all.

        Returns:
            `last_hidden_state` `[texts, tokens, hidden]`, normalised; `pooler_output` `[texts, hidden]`, the first
            end-of-text token; `hidden_states` and `attentions` where asked for.

        Raises:
            ValueError: If a text is too long, or a layer doesn't exist.
        """
        encoded = self.encoder(
            self.embeddings(input_ids),
            *self.wanted_outputs(output_attentions, output_hidden_states),
            attention_layers,
        )
        tokens = self.norm(encoded.last_hidden_state)
        ends = (input_ids == self.config.eos_token_id).int().argmax(dim=1, keepdim=True)
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens,
            pooler_output=take_tokens(tokens, ends).squeeze(1),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


__all__ = ["SuiteCLIPTextModel", "SuiteCLIPVisionModel"]
