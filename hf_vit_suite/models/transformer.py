"""The transformer encoder shared by every family: ViT, DeiT, MAE, DINO, DINOv2 and both towers of CLIP.

Leaf to whole: attention, MLPs, LayerScale, DropPath, Block, Encoder. Each module reads only config fields with
transformers' names, so any config that has them builds it.

Shape letters, the same in every file of this folder:
    all files     B batch, C channels, H W image height and width, h w patch grid, P patch side, N tokens, D width,
                  heads, d = D / heads
    MAE           V visible patches, M masked patches, E decoder width
    DINO          G global crops, L local crops, S student crops, T teacher crops, R rows (crops x images),
                  K prototypes, b bottleneck width
    CLIP          n text tokens, U text width, F projection width, Q pairs of this process, A pairs of all processes
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def eager_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention that materialises its weights, with the signature of transformers' attention interface.

    Args:
        module: The calling layer. `training` enables dropout; without a mask, `is_causal` enables the causal mask.
        query: `[batch, heads, queries, d]`; `key` and `value` are `[batch, heads, tokens, d]`.
        attention_mask: Broadcasts to `[batch, heads, queries, tokens]`. A boolean mask is True for the tokens to
            attend to; any other is added to the scores.
        scaling: Factor of the scores, usually d^-0.5.
        dropout: Dropout probability of the weights; default 0.

    Returns:
        Values `[batch, queries, heads, d]` and weights `[batch, heads, queries, tokens]`.
    """
    scores = (query * scaling) @ key.transpose(2, 3)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    elif module.is_causal:
        scores = scores + causal_mask(query, key)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2), weights


def causal_mask(query: Tensor, key: Tensor) -> Tensor:
    """Additive causal mask `[queries, tokens]`: -inf where the token follows the query, else 0."""
    return query.new_full((query.shape[2], key.shape[2]), float("-inf")).triu(1)


class AttentionMasks(NamedTuple):
    """One attention mask in two forms.

    Args:
        backend: In the form of the config's attention backend; `None` if the backend needs no mask.
        eager: For layers that return weights and therefore compute eagerly; `None` if they need no mask.
    """

    backend: Tensor | BlockMask | None = None
    eager: Tensor | None = None


def attention_masks(config, hidden_states: Tensor, attention_mask: Tensor | None, is_eager: bool) -> AttentionMasks:
    """Prepares the masks of all blocks.

    Args:
        config: Names the attention backend; `is_causal`, where present and true, selects causal attention.
        hidden_states: `[batch, tokens, hidden]`, input of the first block.
        attention_mask: `[batch, tokens]`, 1 or True for the tokens to attend to, or a mask in the backend's form that
            broadcasts to `[batch, heads, tokens, tokens]`.
        is_eager: Whether any layer computes eagerly under another backend.

    Raises:
        ValueError: If the mask has another shape.
    """
    is_causal, is_flex = getattr(config, "is_causal", False), config._attn_implementation == "flex_attention"
    # Without a mask, every backend except FlexAttention reads `is_causal`.
    if attention_mask is None and not (is_causal and is_flex):
        return AttentionMasks()
    if attention_mask is not None:
        check_mask(attention_mask, hidden_states.shape, is_flex)
    if is_causal:
        backend = create_causal_mask(config, hidden_states, attention_mask, None)
    else:
        backend = create_bidirectional_mask(config, hidden_states, attention_mask)
    eager = attention_mask if is_eager else None
    if eager is not None and eager.ndim == 2:
        eager = eager[:, None, None, :].to(hidden_states.device, torch.bool)
        if is_causal:
            eager = eager.expand(-1, -1, eager.shape[-1], -1).tril()
    return AttentionMasks(backend, eager)


def check_mask(attention_mask: Tensor, shape: torch.Size, is_flex: bool) -> None:
    """Refuses shapes that transformers would pad silently, or that FlexAttention on CPUs would read out of bounds."""
    is_whole = attention_mask.ndim == 4 and not is_flex
    if not is_whole and attention_mask.shape != shape[:2]:
        raise ValueError(
            f"attention_mask must be [batch, tokens] = {list(shape[:2])}, prefix tokens included, or "
            f"have 4 dimensions (not under FlexAttention), got {list(attention_mask.shape)}"
        )


NO_MASKS = AttentionMasks()


class Attention(nn.Module):
    """Multi-head self-attention; one matrix product computes queries, keys and values."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.is_causal = getattr(config, "is_causal", False)  # read by the attention functions
        self.num_heads = config.num_attention_heads
        self.scaling = (config.hidden_size // config.num_attention_heads) ** -0.5
        self.attention_dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        output_attentions: bool = False,
        num_queries: int | None = None,
        masks: AttentionMasks = NO_MASKS,
    ) -> tuple[Tensor, Tensor | None]:
        """Computes self-attention.

        Args:
            hidden_states: `[batch, tokens, hidden]`.
            output_attentions: Whether to return weights, which this layer then computes eagerly under any backend.
            num_queries: Computes outputs for the first `num_queries` tokens; all tokens remain keys. Default all.
            masks: From `attention_masks`; not with `num_queries`.

        Returns:
            `[batch, queries, hidden]`, and weights `[batch, heads, queries, tokens]` if requested, else `None`.
        """
        batch, tokens, hidden = hidden_states.shape
        qkv = self.qkv(hidden_states).view(batch, tokens, 3, self.num_heads, hidden // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B, N, 3, heads, d) -> 3 x (B, heads, N, d)
        query = query[:, :, :num_queries]
        attend, mask = eager_attention, masks.eager
        if not output_attentions:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
            mask = masks.backend
        attended, weights = attend(
            self,
            query,
            key,
            value,
            mask,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
        )
        attended = attended.flatten(2)  # (B, N, heads, d) -> (B, N, D)
        return self.proj(attended), weights if output_attentions else None


class QuickGELU(nn.Module):
    """CLIP's activation, x * sigmoid(1.702 x), computed by SiLU: autograd saves one tensor instead of two."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.silu(1.702 * hidden_states) / 1.702


class MLP(nn.Module):
    """Two linear layers with an activation between them: `[batch, tokens, hidden]` to the same shape."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = QuickGELU() if config.hidden_act == "quick_gelu" else ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(hidden_states)))


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202, eq. 6): down(silu(gate) * up); one product gives gate and up."""

    def __init__(self, config):
        super().__init__()
        self.gate_up = nn.Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate, up = self.gate_up(hidden_states).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class LayerScale(nn.Module):
    """A learned factor per channel of a residual branch (Touvron et al. 2021, arXiv 2103.17239, eq. 4)."""

    def __init__(self, config):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((config.hidden_size,), float(config.layer_scale_init_value)))

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states * self.gamma


class DropPath(nn.Module):
    """In training, drops the residual branch of whole samples and scales the kept ones by 1 / (1 - rate).

    Source: Huang et al. 2016, arXiv 1603.09382, eq. 2.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, hidden_states: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return hidden_states
        keep = hidden_states.new_empty(hidden_states.shape[0], 1, 1).bernoulli_(1 - self.rate)
        return hidden_states * keep.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


class Block(GradientCheckpointingLayer):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config, drop_path_rate: float = 0.0):
        super().__init__()
        has_scale = config.layer_scale_init_value is not None
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.scale1 = LayerScale(config) if has_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SwiGLU(config) if config.mlp_type == "swiglu" else MLP(config)
        self.scale2 = LayerScale(config) if has_scale else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self,
        hidden_states: Tensor,
        output_attentions: bool = False,
        num_queries: int | None = None,
        masks: AttentionMasks = NO_MASKS,
    ) -> tuple[Tensor, Tensor | None]:
        """`[batch, tokens, hidden]` -> the first `num_queries` tokens (default all), and weights if requested."""
        attended, weights = self.attention(self.norm1(hidden_states), output_attentions, num_queries, masks)
        hidden_states = hidden_states[:, :num_queries] + self.drop_path(self.scale1(self.dropout(attended)))
        transformed = self.mlp(self.norm2(hidden_states))
        return hidden_states + self.drop_path(self.scale2(self.dropout(transformed))), weights


class Encoder(nn.Module):
    """A stack of blocks; the DropPath rate grows linearly with depth."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(Block(config, rate) for rate in rates)

    def forward(
        self,
        hidden_states: Tensor,
        output_attentions: bool = False,
        output_hidden_states: bool | int | Sequence[int] = False,
        attention_layers: Sequence[int] | None = None,
        num_output_tokens: int | None = None,
        attention_mask: Tensor | None = None,
    ) -> BaseModelOutput:
        """Runs every block.

        Args:
            hidden_states: `[batch, tokens, hidden]`.
            output_attentions: Whether to return the weights of `attention_layers`.
            output_hidden_states: Whether to return the input and every block's output; or the indices of those to
                return, 0 for the input, negative from the end.
            attention_layers: Indices of the layers whose weights are returned, negative from the end; default all.
            num_output_tokens: The last block computes only the first `num_output_tokens` tokens; default all. Ignored
                if hidden states, the last layer's attention or a mask are requested.
            attention_mask: As in `attention_masks`.

        Returns:
            `last_hidden_state` `[batch, tokens, hidden]` without final norm; `hidden_states`, depth + 1 entries,
            `None` for those not requested; `attentions`, one `[batch, heads, tokens, tokens]` per layer of
            `attention_layers`, in ascending order.

        Raises:
            ValueError: If the mask's shape does not fit, or a layer does not exist.
        """
        depth = len(self.blocks)
        wanted = self.resolve_layers(attention_layers) if output_attentions else set()
        returned = self.resolve_hidden_states(output_hidden_states)
        if returned or attention_mask is not None or depth - 1 in wanted:
            num_output_tokens = None
        masks = attention_masks(self.config, hidden_states, attention_mask, bool(wanted))
        collected, attentions = [hidden_states if 0 in returned else None], []
        for layer, block in enumerate(self.blocks):
            num_queries = num_output_tokens if layer == depth - 1 else None
            hidden_states, weights = block(hidden_states, layer in wanted, num_queries, masks)
            if weights is not None:
                attentions.append(weights)
            collected.append(hidden_states if layer + 1 in returned else None)
        return BaseModelOutput(
            last_hidden_state=hidden_states,
            hidden_states=tuple(collected) if returned else None,
            attentions=tuple(attentions) if output_attentions else None,
        )

    def resolve_hidden_states(self, wanted: bool | int | Sequence[int]) -> set[int]:
        """Indices of the hidden states to return; as in transformers, indices out of range select nothing."""
        number = len(self.blocks) + 1
        if isinstance(wanted, bool):
            return set(range(number)) if wanted else set()
        chosen = [wanted] if isinstance(wanted, int) else wanted
        return {index % number for index in chosen if -number <= index < number}

    def resolve_layers(self, layers: Sequence[int] | None) -> set[int]:
        """Layer indices from 0; negative ones count from the end, `None` means all layers.

        Raises:
            ValueError: If a layer does not exist.
        """
        depth = len(self.blocks)
        if layers is None:
            return set(range(depth))
        if unknown := [layer for layer in layers if not -depth <= layer < depth]:
            raise ValueError(f"attention_layers must be from {-depth} to {depth - 1}, got {unknown}")
        return {layer % depth for layer in layers}
