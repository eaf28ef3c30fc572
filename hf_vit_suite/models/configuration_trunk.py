"""The configuration fields of transformer blocks and of image encoders, and their checks."""

from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.configuration_utils import PreTrainedConfig

BLOCK_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
IMAGE_SIZES = ("patch_size", "num_channels")
SHARES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")


class SuiteConfig(PreTrainedConfig):
    """Base of every configuration of the suite."""

    @property
    def output_attentions(self) -> bool:
        """Whether every call returns attentions; unlike transformers' own models, under any attention backend."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        self._output_attentions = value

    def validate(self) -> None:
        """Checks a config before it is saved: `check`, and transformers' rules.

        One rule is left out, as it allows attentions under the eager backend alone.
        """
        for rule in PreTrainedConfig.__class_validators__:
            if rule.__name__ != "validate_output_attentions":
                rule(self)
        self.check()

    def check(self) -> None:
        """Refuses fields that don't fit together; construction, saving and every model call it.

        So a field that is changed after construction is checked too.

        Raises:
            ValueError: Naming the field, its value and what is allowed.
        """
        for name, part_class in self.sub_configs.items():
            part = getattr(self, name)
            if not isinstance(part, SuiteConfig):
                raise ValueError(f"{name} must be a {part_class.__name__}, got {type(part).__name__}")
            part.check()

    def _check_positive(self, names: tuple[str, ...]) -> None:
        """Refuses values below 1."""
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def _check_multiple(self, size: str, divisor: str) -> None:
        """Refuses a size that is no multiple of the other field."""
        if getattr(self, size) % getattr(self, divisor):
            raise ValueError(
                f"{size} must be a multiple of {divisor}, got {getattr(self, size)} and {getattr(self, divisor)}"
            )


SuiteConfig.register_for_auto_class()


class TransformerConfig(SuiteConfig):
    """The fields of transformer blocks, for images and texts.

    Args:
        hidden_size: Width D of every token.
        num_hidden_layers: Number of transformer blocks.
        num_attention_heads: Attention heads; must divide `hidden_size`.
        intermediate_size: Width of the MLP's hidden layer.
        hidden_act: Activation of the two-layer MLP, a name from `transformers.activations.ACT2FN`.
        hidden_dropout_prob: Dropout after the embeddings, the attention projection and the MLP.
        attention_probs_dropout_prob: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first
            (Huang et al. 2016, arXiv 1603.09382).
        layer_norm_eps: Epsilon of every LayerNorm.
        initializer_range: Standard deviation of the initial tokens, and in some families of the weights.
        qkv_bias: Whether the query, key and value projection has a bias.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    drop_path_rate: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    qkv_bias: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        super().check()
        self._check_positive(BLOCK_SIZES)
        self._check_multiple("hidden_size", "num_attention_heads")
        for name in SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")
        if self.layer_norm_eps <= 0:
            raise ValueError(f"layer_norm_eps must be above 0, got {self.layer_norm_eps}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act must be an activation of transformers, got {self.hidden_act!r}")


class TrunkConfig(BackboneConfigMixin, TransformerConfig):
    """Base of the image families' configurations: the fields of patches beside those of the blocks.

    The defaults are ViT-B/16 at 224 pixels (Dosovitskiy et al. 2020, arXiv 2010.11929, table 1) with the
    LayerNorm epsilon that the published weights were trained with.

    Args:
        image_size: Pixels for which the position table is made: one number, or (height, width).
        patch_size: Side of the square patches in pixels; `(side, side)` is taken too.
        num_channels: Channels of the input.
        reshape_hidden_states: Whether a backbone returns maps; else tokens, prefix tokens included.
        apply_layernorm: Whether a backbone's maps are normalised by the last norm.
        out_features: Stages that a backbone returns, of `"stem"`, `"stage1"`, ...; default the last one, whatever
            `num_hidden_layers` is when they are read.
        out_indices: The same as numbers; negative ones count from the last stage.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    image_size: int | list[int] | tuple[int, int] = 224
    patch_size: int | list[int] | tuple[int, int] = 16
    num_channels: int = 3
    reshape_hidden_states: bool = True
    apply_layernorm: bool = True
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        stage_names = kwargs.pop("stage_names", None)
        out_features, out_indices = kwargs.pop("out_features", None), kwargs.pop("out_indices", None)
        # Files with stage names also hold the default stage, as if it had been chosen.
        if stage_names is not None and out_features == stage_names[-1:]:
            out_features = out_indices = None
        self.set_output_features_output_indices(out_features, out_indices)
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value) -> None:
        if name == "patch_size" and not isinstance(value, int):
            if len(set(value)) != 1:
                raise ValueError(f"patch_size must be one number, as patches are square, got {value}")
            value = value[0]
        super().__setattr__(name, value)

    def check(self) -> None:
        super().check()
        self.verify_out_features_out_indices()
        self._check_positive(IMAGE_SIZES)
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be a number or (height, width), got {self.image_size}")
        height, width = self.image_height_width
        if min(height, width) < self.patch_size or height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size must be a multiple of patch_size {self.patch_size}, got {height} x {width} pixels"
            )

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
    def stage_names(self) -> list[str]:
        """Stages that a backbone can return: the input of the blocks, and the output of each block."""
        return ["stem", *(f"stage{layer}" for layer in range(1, self.num_hidden_layers + 1))]

    def set_output_features_output_indices(
        self, out_features: list[str] | None, out_indices: list[int] | tuple[int, ...] | None
    ) -> None:
        """Stores only chosen stages; transformers also stores the default, which is wrong after a change of depth."""
        self._out_features = out_features
        self._out_indices = list(out_indices) if isinstance(out_indices, tuple) else out_indices
        self.verify_out_features_out_indices()

    @property
    def out_features(self) -> list[str]:
        """Names of the stages that a backbone returns."""
        if self._out_features is not None:
            return self._out_features
        return [self.stage_names[index] for index in self.out_indices]

    @out_features.setter
    def out_features(self, out_features: list[str] | None) -> None:
        self.set_output_features_output_indices(out_features, None)

    @property
    def out_indices(self) -> list[int]:
        """Numbers of the stages that a backbone returns."""
        if self._out_indices is not None:
            return self._out_indices
        if self._out_features is not None:
            return [self.stage_names.index(name) for name in self._out_features]
        return [self.num_hidden_layers]

    @out_indices.setter
    def out_indices(self, out_indices: list[int] | tuple[int, ...] | None) -> None:
        self.set_output_features_output_indices(None, out_indices)


# Every field that the image families share.
TRUNK_FIELDS = tuple(
    name for name in (*TransformerConfig.__annotations__, *TrunkConfig.__annotations__) if not name.startswith("_")
)

__all__ = ["SuiteConfig", "TransformerConfig", "TrunkConfig"]
