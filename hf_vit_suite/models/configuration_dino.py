"""Configuration of DINO: self-distillation without labels."""

from .configuration_vit import SuiteViTConfig

HEAD_SIZES = ("head_num_layers", "head_hidden_size", "head_bottleneck_size", "num_prototypes")
CENTERINGS = ("center", "sinkhorn_knopp")


class SuiteDINOConfig(SuiteViTConfig):
    """Configuration of `SuiteDINOModel` and `SuiteDINOForPreTraining` (Caron et al. 2021, arXiv 2104.14294).

    The backbone's fields are `SuiteViTConfig`'s; it pools the class token and has no distillation token. The defaults
    are the paper's with a ViT-B/16. `drop_path_rate` applies only to the student.

    Args:
        head_num_layers: Number of linear layers of the projection head before the prototypes.
        head_hidden_size: Hidden width of the projection head.
        head_bottleneck_size: Bottleneck width b, of the L2-normalised features.
        head_batch_norm: Whether the head has batch norms; the paper's vision transformers have none.
        head_learned_gain: Whether the length of each prototype is learned or fixed at 1. The paper's code learns it
            for small backbones, where results are better, and not for base ones, where training may be unstable.
        num_prototypes: Number of prototypes K, the outputs of the head.
        student_temperature: Temperature of the student's softmax.
        teacher_temperature: Temperature of the teacher's softmax; training may warm up to it.
        center_momentum: Momentum of the centre, above 0 and below 1.
        centering: `"center"`, or `"sinkhorn_knopp"`, three Sinkhorn-Knopp iterations instead of the centre, as in
            DINOv2 (Oquab et al. 2023, arXiv 2304.07193, section 4).
        koleo_weight: Weight of KoLeo, which spreads the features of a batch (DINOv2, section 4; 0.1 there); 0 is off.
        patch_loss_weight: Weight of iBOT's loss of masked patches (Zhou et al. 2021, arXiv 2111.07832; 1 in DINOv2),
            with the same head as the class token; 0 is off.

    Raises:
        ValueError: If a value is out of its range; the message names the field, its value and what is allowed.
    """

    model_type = "suite_dino"
    # The class token is what DINO trains.
    fine_tuning_pooling = "cls"

    position_interpolation_offset: float = 0.1
    head_num_layers: int = 3
    head_hidden_size: int = 2048
    head_bottleneck_size: int = 256
    head_batch_norm: bool = False
    head_learned_gain: bool = False
    num_prototypes: int = 65536
    student_temperature: float = 0.1
    teacher_temperature: float = 0.07
    center_momentum: float = 0.9
    centering: str = "center"
    koleo_weight: float = 0.0
    patch_loss_weight: float = 0.0

    def check(self) -> None:
        super().check()
        self._check_positive(HEAD_SIZES)
        for name in ("student_temperature", "teacher_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 < self.center_momentum < 1:
            raise ValueError(f"center_momentum must be above 0 and below 1, got {self.center_momentum}")
        if self.centering not in CENTERINGS:
            raise ValueError(f"centering must be one of {', '.join(CENTERINGS)}, got {self.centering!r}")
        for name in ("koleo_weight", "patch_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.pooling != "cls" or self.use_distillation_token:
            raise ValueError("DINO trains the class token: pooling must be 'cls' and use_distillation_token False")

    @property
    def has_mask_token(self) -> bool:
        """Whether the embeddings have a mask token, which the patch loss needs."""
        return self.use_mask_token or self.patch_loss_weight > 0

    def encoder_config(self, **fields) -> SuiteViTConfig:
        """Configuration of the backbone as a plain vision transformer, to continue from its weights.

        Args:
            **fields: Fields to override.
        """
        return SuiteViTConfig(**{**self.vit_fields(), **fields})


__all__ = ["SuiteDINOConfig"]
