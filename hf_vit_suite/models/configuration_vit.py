"""Configuration of the plain vision transformer: ViT, DeiT, the DINO and DINOv2 backbones, CLIP's image tower."""

from .configuration_trunk import TRUNK_FIELDS, TrunkConfig

CHOICES = {
    "mlp_type": ("gelu", "swiglu"),
    "pooling": ("cls", "mean"),
    "position_embedding_type": ("learned", "sincos"),
}


class SuiteViTConfig(TrunkConfig):
    """Configuration of `SuiteViTModel`, `SuiteViTForImageClassification` and `SuiteViTBackbone`.

    The defaults are ViT-B/16 at 224 pixels; DeiT and DINOv2 are this class with other values. The fields shared by all
    families are `TrunkConfig`'s. Weights and tokens start from a truncated normal with std `initializer_range`.

    Args:
        mlp_type: `"gelu"`, two linear layers with `hidden_act` between; `"swiglu"`, the gated MLP of DINOv2 giant,
            where `intermediate_size` is the width of the gate.
        layer_scale_init_value: Initial value of LayerScale (Touvron et al. 2021, arXiv 2103.17239); default none.
        use_distillation_token: Whether to add a second token and a second head, as in DeiT (arXiv 2012.12877,
            section 4).
        num_register_tokens: Number of register tokens, without position (Darcet et al. 2023, arXiv 2309.16588).
        use_mask_token: Whether to add a learned token for masked patches, as in the published DINOv2 weights.
        use_patch_bias: Whether the patch projection has a bias; CLIP's has none.
        use_pre_norm: Whether a norm precedes the blocks, as in CLIP.
        pooling: `"cls"`, the normalised class token; `"mean"`, the mean of the patch tokens, then the norm.
        representation_size: Width of a linear layer with tanh after pooling, as in the pretraining of ViT
            (arXiv 2010.11929, section 3.1); default none.
        classifier_layers: Number of last layers whose normalised class tokens are concatenated as classifier input;
            DINO and DINOv2 published classifiers with 4.
        classifier_patch_mean: Whether the classifier input also has the mean of the normalised patch tokens, as in
            DINOv2.
        position_embedding_type: `"learned"`, or `"sincos"` for the fixed two-dimensional sine-cosine table.
        position_interpolation_antialias: Whether resizing the position table to another image size antialiases,
            as in timm and DINOv2 with registers; the original DINO and DINOv2 and transformers do not.
        position_interpolation_offset: Added to the target grid before the scale factor is computed; 0.1 in the
            original DINO and DINOv2 code, 0 elsewhere.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_vit"
    # Otherwise Trainer's predictions of a distilled classifier would be a tuple.
    keys_to_ignore_at_inference = ["class_logits", "distillation_logits"]  # noqa: RUF012 (as transformers declares it)

    mlp_type: str = "gelu"
    layer_scale_init_value: float | None = None
    use_distillation_token: bool = False
    num_register_tokens: int = 0
    use_mask_token: bool = False
    use_patch_bias: bool = True
    use_pre_norm: bool = False
    pooling: str = "cls"
    representation_size: int | None = None
    classifier_layers: int = 1
    classifier_patch_mean: bool = False
    position_embedding_type: str = "learned"
    position_interpolation_antialias: bool = False
    position_interpolation_offset: float = 0.0

    def check(self) -> None:
        super().check()
        self._check_choices()
        self._check_classifier()

    @property
    def num_prefix_tokens(self) -> int:
        """Number of prefix tokens: class, distillation, registers."""
        return 1 + int(self.use_distillation_token) + self.num_register_tokens

    @property
    def classifier_input_size(self) -> int:
        """Width of the classifier input."""
        pooled = self.representation_size or self.hidden_size
        return pooled + (self.classifier_layers - 1 + int(self.classifier_patch_mean)) * self.hidden_size

    @property
    def has_mask_token(self) -> bool:
        return self.use_mask_token

    def vit_fields(self) -> dict:
        """The `SuiteViTConfig` fields of this configuration, without those that a family adds."""
        names = (*TRUNK_FIELDS, *SuiteViTConfig.__annotations__)
        return {name: getattr(self, name) for name in names} | {"use_mask_token": self.has_mask_token}

    def _check_choices(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.num_register_tokens < 0:
            raise ValueError(f"num_register_tokens must not be negative, got {self.num_register_tokens}")
        if self.use_distillation_token and self.pooling != "cls":
            raise ValueError(f"use_distillation_token needs pooling='cls', got {self.pooling!r}")
        if self.position_embedding_type == "sincos" and self.hidden_size % 4:
            raise ValueError(f"sincos positions need a hidden_size that is a multiple of 4, got {self.hidden_size}")

    def _check_classifier(self) -> None:
        if self.representation_size is not None:
            self._check_positive(("representation_size",))
            if self.model_type != SuiteViTConfig.model_type:
                raise ValueError(f"representation_size is for {SuiteViTConfig.model_type}, not for {self.model_type}")
        if not 1 <= self.classifier_layers <= self.num_hidden_layers:
            raise ValueError(
                f"classifier_layers must be from 1 to num_hidden_layers {self.num_hidden_layers}, "
                f"got {self.classifier_layers}"
            )
        reads_more = self.classifier_layers > 1 or self.classifier_patch_mean
        if reads_more and (self.pooling != "cls" or self.use_distillation_token):
            raise ValueError("classifier_layers and classifier_patch_mean need pooling='cls' and one classifier")


__all__ = ["SuiteViTConfig"]
