"""Configuration of the plain vision transformer: ViT, DeiT and the DINO and DINOv2 backbones."""

from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

POSITIVE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "patch_size",
    "num_channels",
)
CHOICES = {
    "mlp_type": ("gelu", "swiglu"),
    "pooling": ("cls", "mean"),
    "position_embedding_type": ("learned", "sincos"),
}


class SuiteViTConfig(BackboneConfigMixin, PreTrainedConfig):
    """Configuration of `SuiteViTModel`, `SuiteViTForImageClassification` and `SuiteViTBackbone`.

    The defaults are ViT-B/16 at 224 pixels (Dosovitskiy et al. 2020, arXiv 2010.11929, table 1) with the
    LayerNorm epsilon that the published weights were trained with. DeiT and DINOv2 are this class with other values.

    Args:
        hidden_size: Width D of every token.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Attention heads; must divide `hidden_size`.
        intermediate_size: Width of the MLP's hidden layer; for `mlp_type="swiglu"` that of the gated half.
        mlp_type: `"gelu"`, two linear layers with `hidden_act` between; `"swiglu"`, the gated MLP of DINOv2 giant.
        hidden_act: Activation of the two-layer MLP, a name from `transformers.activations.ACT2FN`.
        hidden_dropout_prob: Dropout after the embeddings, the attention projection and the MLP.
        attention_probs_dropout_prob: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first
            (Huang et al. 2016, arXiv 1603.09382).
        layer_scale_init_value: Initial value of LayerScale (Touvron et al. 2021, arXiv 2103.17239); `None` is without.
        layer_norm_eps: Epsilon of every LayerNorm.
        initializer_range: Standard deviation of the truncated normal that starts weights and tokens.
        qkv_bias: Whether the query, key and value projection has a bias.
        image_size: Pixels for which the position table is made: one number, or (height, width).
        patch_size: Side of the square patches in pixels.
        num_channels: Channels of the input.
        use_distillation_token: A second token and a second head, as in DeiT (arXiv 2012.12877, section 4).
        num_register_tokens: Extra tokens without position (Darcet et al. 2023, arXiv 2309.16588).
        use_mask_token: A learned token for masked patches, present in the published DINOv2 weights.
        pooling: `"cls"`, the normalised class token; `"mean"`, the mean of the patch tokens, then the norm.
        position_embedding_type: `"learned"`, or `"sincos"` for the fixed two-dimensional sine-cosine table.
        position_interpolation_antialias: Whether resizing the position table to another image size antialiases,
            as in DINOv2 with registers and timm; the first DINO, DINOv2 and transformers do not.
        position_interpolation_offset: Added to the target grid before it is turned into a scale factor; 0.1 in the
            original DINO and DINOv2 code, 0 elsewhere.
        out_features: Stages that `SuiteViTBackbone` returns, of `"stem"`, `"stage1"`, ...; default the last.
        out_indices: The same as numbers.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_vit"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    mlp_type: str = "gelu"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0
    layer_scale_init_value: float | None = None
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    qkv_bias: bool = True
    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int = 16
    num_channels: int = 3
    use_distillation_token: bool = False
    num_register_tokens: int = 0
    use_mask_token: bool = False
    pooling: str = "cls"
    position_embedding_type: str = "learned"
    position_interpolation_antialias: bool = False
    position_interpolation_offset: float = 0.0
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = ["stem"] + [f"stage{layer}" for layer in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", None), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)
        self._check_sizes()
        self._check_choices()

    @property
    def image_height_width(self) -> tuple[int, int]:
        """Image size as (height, width) in pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def grid_height_width(self) -> tuple[int, int]:
        """Patches of the position table as (rows, columns)."""
        height, width = self.image_height_width
        return height // self.patch_size, width // self.patch_size

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class, distillation, registers."""
        return 1 + int(self.use_distillation_token) + self.num_register_tokens

    @property
    def output_attentions(self) -> bool:
        """Whether every call returns attentions; unlike transformers' own models, under any attention backend."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value

    def validate(self) -> None:
        """transformers' checks on saving, but for the one that allows attentions under the eager backend alone."""
        for check in PreTrainedConfig.__class_validators__:
            if check.__name__ != "validate_output_attentions":
                check(self)

    def _check_sizes(self) -> None:
        for name in POSITIVE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_attention_heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}"
            )
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be a number or (height, width), got {self.image_size}")
        height, width = self.image_height_width
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {self.patch_size}, got {height} x {width} pixels"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps must be above 0, got {self.layer_norm_eps}")
        if self.num_register_tokens < 0:
            raise ValueError(f"num_register_tokens must not be negative, got {self.num_register_tokens}")

    def _check_choices(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be an activation of transformers, got {self.hidden_act!r}")
        if self.use_distillation_token and self.pooling != "cls":
            raise ValueError(f"use_distillation_token needs pooling='cls', got {self.pooling!r}")
        if self.position_embedding_type == "sincos" and self.hidden_size % 4:
            raise ValueError(f"sincos positions need a hidden_size that is a multiple of 4, got {self.hidden_size}")


SuiteViTConfig.register_for_auto_class()

__all__ = ["SuiteViTConfig"]
