"""Configuration of the masked autoencoder."""

from .configuration_trunk import TRUNK_FIELDS, TrunkConfig
from .configuration_vit import SuiteViTConfig

DECODER_SIZES = (
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
)


class SuiteMAEConfig(TrunkConfig):
    """Configuration of `SuiteMAEModel` and `SuiteMAEForPreTraining` (He et al. 2021, arXiv 2111.06377).

    The encoder's fields are `TrunkConfig`'s; it has sine-cosine positions and a class token. The defaults are MAE's
    ViT-B/16 with the decoder of table 1: 8 blocks, 512 wide.

    Args:
        decoder_hidden_size: Width of the decoder's tokens.
        decoder_num_hidden_layers: Number of decoder blocks.
        decoder_num_attention_heads: Heads of the decoder; must divide `decoder_hidden_size`.
        decoder_intermediate_size: Width of the decoder's MLPs.
        mask_ratio: Fraction of the patches that are masked, above 0 and below 1.
        norm_pix_loss: Whether the target is each patch's pixels normalised by its own mean and standard deviation,
            which learns better features (table 1d); otherwise raw pixels, which give sharper reconstructions.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_mae"
    # As in the paper's fine-tuning: no pretraining loss reads the class token.
    fine_tuning_pooling = "mean"

    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_num_attention_heads: int = 16
    decoder_intermediate_size: int = 2048
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False

    # Options of `Encoder` and `Embeddings` that the paper's encoder does not use are off.
    mlp_type = "gelu"
    layer_scale_init_value = None
    use_distillation_token = False
    num_register_tokens = 0
    num_prefix_tokens = 1
    has_mask_token = False
    use_patch_bias = True
    use_pre_norm = False
    position_embedding_type = "sincos"
    position_interpolation_antialias = False
    position_interpolation_offset = 0.0

    def check(self) -> None:
        super().check()
        self._check_positive(DECODER_SIZES)
        self._check_multiple("decoder_hidden_size", "decoder_num_attention_heads")
        for name in ("hidden_size", "decoder_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(
                    f"{name} must be a multiple of 4 for sine-cosine positions, got {getattr(self, name)}"
                )
        rows, columns = self.grid_height_width
        self.num_visible(rows * columns)

    def num_visible(self, patches: int) -> int:
        """Number of visible patches of an image with `patches` patches.

        Raises:
            ValueError: If `mask_ratio` leaves no patch visible or none masked.
        """
        visible = int(patches * (1 - self.mask_ratio))
        if not 0 < visible < patches:
            raise ValueError(
                f"mask_ratio must leave at least one of {patches} patches visible and one masked, "
                f"got {self.mask_ratio}"
            )
        return visible

    def encoder_config(self, **fields) -> SuiteViTConfig:
        """Configuration of the encoder as a plain vision transformer, to continue from its weights.

        Args:
            **fields: Fields to override.
        """
        of_trunk = {name: getattr(self, name) for name in TRUNK_FIELDS}
        return SuiteViTConfig(**{**of_trunk, "position_embedding_type": "sincos", **fields})


__all__ = ["SuiteMAEConfig"]
