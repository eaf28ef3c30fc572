"""Configurations of CLIP: the image tower, the text tower and both together."""

from transformers.utils import logging

from .configuration_trunk import SuiteConfig, TransformerConfig
from .configuration_vit import SuiteViTConfig

logger = logging.get_logger(__name__)

LOSS_TYPES = ("softmax", "sigmoid")


class SuiteCLIPVisionConfig(SuiteViTConfig):
    """Configuration of CLIP's image tower: `SuiteCLIPVisionModel`, its backbone and its variant with projection.

    Source: Radford et al. 2021, arXiv 2103.00020, section 2.4.

    The fields are `SuiteViTConfig`'s, so that any plain vision transformer can be the image tower. The defaults are
    CLIP's ViT-B/32.

    Args:
        projection_dim: Width of the embedding space shared by both towers.
        patch_dropout: Fraction of the patches dropped from each image in training, which makes a step faster
            (Li et al. 2022, arXiv 2212.00794); 0 drops none.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_clip_vision_model"
    base_config_key = "vision_config"
    # The class token is what CLIP trains.
    fine_tuning_pooling = "cls"

    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    use_patch_bias: bool = False
    use_pre_norm: bool = True
    projection_dim: int = 512
    patch_dropout: float = 0.0

    def check(self) -> None:
        super().check()
        self._check_positive(("projection_dim",))
        if not 0 <= self.patch_dropout < 1:
            raise ValueError(f"patch_dropout must be at least 0 and below 1, got {self.patch_dropout}")

    def encoder_config(self, **fields) -> SuiteViTConfig:
        """Configuration of the image tower as a plain vision transformer, to continue from its weights.

        Args:
            **fields: Fields to override.
        """
        return SuiteViTConfig(**{**self.vit_fields(), **fields})


class SuiteCLIPTextConfig(TransformerConfig):
    """Configuration of CLIP's text tower: `SuiteCLIPTextModel` and `SuiteCLIPTextModelWithProjection`.

    Source: Radford et al. 2021, arXiv 2103.00020, section 2.4.

    The fields of the blocks are `TransformerConfig`'s. The defaults are CLIP's with a ViT-B.

    Args:
        vocab_size: Number of tokens of the tokenizer.
        max_position_embeddings: Maximum number of tokens of a text, start and end included.
        eos_token_id: End-of-text token, at whose position the text is pooled; default the last of the vocabulary.
        bos_token_id: Start-of-text token; default the second to last of the vocabulary.
        pad_token_id: Padding token, after the end of a text; default `eos_token_id`.
        projection_dim: Width of the embedding space shared by both towers.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_clip_text_model"
    base_config_key = "text_config"

    hidden_size: int = 512
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None
    projection_dim: int = 512

    # Fixed values that `Encoder` reads.
    is_causal = True
    mlp_type = "gelu"
    layer_scale_init_value = None

    def __post_init__(self, **kwargs):
        # Stored as values: tokens added to the vocabulary later must not change them.
        if self.bos_token_id is None:
            self.bos_token_id = self.vocab_size - 2
        if self.eos_token_id is None:
            self.eos_token_id = self.vocab_size - 1
        if self.pad_token_id is None:
            self.pad_token_id = self.eos_token_id
        super().__post_init__(**kwargs)

    def check(self) -> None:
        super().check()
        self._check_positive(("vocab_size", "max_position_embeddings", "projection_dim"))
        if self.eos_token_id is None:
            raise ValueError("eos_token_id must be set, as texts are pooled at their end-of-text token")
        if not 0 <= self.eos_token_id < self.vocab_size:
            # No error: a caller may shrink the vocabulary before setting the token.
            logger.warning_once(
                f"eos_token_id {self.eos_token_id} is not in the vocabulary of {self.vocab_size} tokens: no text has "
                "an end-of-text token, so texts are pooled at their first token"
            )


class SuiteCLIPConfig(SuiteConfig):
    """Configuration of `SuiteCLIPModel` (Radford et al. 2021, arXiv 2103.00020). The defaults are ViT-B/32's.

    Args:
        vision_config: The image tower's fields, or its configuration.
        text_config: The text tower's fields, or its configuration.
        projection_dim: Width of the embedding space shared by both towers; setting it sets it in both towers.
        loss_type: `"softmax"`, CLIP's cross-entropy over the batch, or `"sigmoid"`, SigLIP's binary loss per pair with
            a learned bias (Zhai et al. 2023, arXiv 2303.15343).
        logit_scale_init_value: Initial logarithm of the factor of the cosines (inverse temperature); default
            log(1 / 0.07) for softmax and log(10) for sigmoid, as in the papers.
        logit_bias_init_value: Initial bias of the logits in the sigmoid loss.

    Raises:
        ValueError: If a value is out of its range or the towers' projections differ; the message names the field.
    """

    model_type = "suite_clip"
    sub_configs_defaults = {  # noqa: RUF012 (transformers declares it as a plain dict)
        "vision_config": SuiteCLIPVisionConfig,
        "text_config": SuiteCLIPTextConfig,
    }
    fine_tuning_pooling = SuiteCLIPVisionConfig.fine_tuning_pooling

    vision_config: dict | SuiteCLIPVisionConfig | None = None
    text_config: dict | SuiteCLIPTextConfig | None = None
    projection_dim: int | None = None
    loss_type: str = "softmax"
    logit_scale_init_value: float | None = None
    logit_bias_init_value: float = -10.0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.projection_dim is not None:
            self.projection_dim = self.projection_dim  # sets the towers' too, which are configurations by now
        self.check()
        self.projection_dim = self.vision_config.projection_dim

    def __setattr__(self, name: str, value) -> None:
        super().__setattr__(name, value)
        if name == "projection_dim" and value is not None:
            for tower in (self.vision_config, self.text_config):
                if isinstance(tower, SuiteConfig):
                    tower.projection_dim = value

    def check(self) -> None:
        super().check()
        of_images, of_texts = self.vision_config.projection_dim, self.text_config.projection_dim
        if of_images != of_texts:
            raise ValueError(
                f"projection_dim must be the same in both towers, got {of_images} for images and {of_texts} for texts"
            )
        if self.projection_dim not in (None, of_images):
            raise ValueError(
                f"projection_dim is {self.projection_dim} and that of both towers {of_images}: set "
                "config.projection_dim, which sets the towers' too"
            )
        if self.loss_type not in LOSS_TYPES:
            raise ValueError(f"loss_type must be one of {', '.join(LOSS_TYPES)}, got {self.loss_type!r}")

    @property
    def initial_logit_scale(self) -> float:
        """`logit_scale_init_value`, or the default of the loss."""
        if self.logit_scale_init_value is not None:
            return self.logit_scale_init_value
        return 2.6592 if self.loss_type == "softmax" else 2.3026

    def encoder_config(self, **fields) -> SuiteViTConfig:
        """Configuration of the image tower as a plain vision transformer, to continue from its weights.

        Args:
            **fields: Fields to override.
        """
        return self.vision_config.encoder_config(**fields)


__all__ = ["SuiteCLIPConfig", "SuiteCLIPTextConfig", "SuiteCLIPVisionConfig"]
