"""DINO (Caron et al. 2021, arXiv 2104.14294): self-distillation; the teacher is the student's moving average.

Shape flow (letters: see transformer.py; here also G = 2 global crops, L local crops, S = G + L student crops, T = G
teacher crops, K prototypes, b bottleneck width):
    global crops  [B, G, C, H, W]     teacher and student
    local crops   [B, L, C, H, W]     student only; smaller H and W
    backbone      crops of one size in one batch; class tokens                 student [B, S, D], teacher [B, T, D]
    head          MLP, then L2 normalisation                                   [B, S, b], [B, T, b]
    prototypes    logits, softmax; the teacher's centred and sharpened         [B, S, K], [B, T, K], in chunks of K
    loss          cross-entropy of all pairs except those of the same crop     scalar
    update        `update_teacher`, after the optimiser's step: centre and teacher
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import initialization as init
from transformers.utils.generic import ModelOutput, can_return_tuple

from .backbone import TrunkBackbone
from .configuration_dino import SuiteDINOConfig
from .embedding import whole_patches
from .modeling_vit import SuiteViTModel, SuiteViTPreTrainedModel
from .pretrained import join_auto_classes
from .prototypes import (
    Center,
    Prototypes,
    Targets,
    cross_entropy,
    sinkhorn_knopp_targets,
    softmax_targets,
    teacher_statistics,
)

PRETRAINING_KEYS = [r"^(student|student_head|teacher_head|center|patch_center)\."]
# Avoids the logarithm of zero distance; DINOv2's value.
KOLEO_EPSILON = 1e-8


@dataclass
class SuiteDINOForPreTrainingOutput(ModelOutput):
    """What pretraining returns.

    Args:
        loss: Sum of the parts below with the config's weights.
        class_loss: Cross-entropy of the class tokens, mean over images and pairs of crops.
        koleo_loss: KoLeo of the global crops' class tokens; `None` if its weight is 0.
        patch_loss: Cross-entropy of the masked patches; `None` if its weight is 0.
        teacher_entropy: Mean entropy of the teacher's targets in nats; `None` unless `output_statistics`.
        center_divergence: Mean KL divergence of the teacher's predictions from the centre's in nats, 0 if the
            predictions are equal for every image; `None` unless `output_statistics`.
        hidden_states: The teacher's, of the global crops, `[batch * global crops, tokens, hidden]` each.
        attentions: The teacher's, of the global crops, `[batch * global crops, heads, tokens, tokens]` each.
    """

    loss: Tensor | None = None
    class_loss: Tensor | None = None
    koleo_loss: Tensor | None = None
    patch_loss: Tensor | None = None
    teacher_entropy: Tensor | None = None
    center_divergence: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def koleo_loss(features: Tensor) -> Tensor:
    """-log of the distance to the nearest other image's L2-normalised features, in float32.

    Source: Sablayrolles et al. 2018, arXiv 1806.03198, eq. 2; DINOv2, arXiv 2304.07193, section 4.

    Args:
        features: `[images, width]`, at least two images.

    Returns:
        The mean over the images, a scalar.

    Raises:
        ValueError: If there is only one image.
    """
    if features.shape[0] < 2:
        raise ValueError("KoLeo compares the images of a batch: it needs at least 2 on each device, got 1")
    with torch.autocast(features.device.type, enabled=False):
        features = F.normalize(features.float(), eps=KOLEO_EPSILON)
        similarities = (features @ features.T).detach().fill_diagonal_(-1)
        nearest = features[similarities.argmax(dim=1)]
        distances = F.pairwise_distance(features, nearest, eps=KOLEO_EPSILON)
        return -(distances + KOLEO_EPSILON).log().mean()


class ProjectionHead(nn.Module):
    """MLP, L2 normalisation and prototypes (section 3.1, "Network architecture")."""

    def __init__(self, config: SuiteDINOConfig):
        super().__init__()
        hidden = config.head_hidden_size
        layers: list[nn.Module] = []
        width = config.hidden_size
        for _ in range(config.head_num_layers - 1):
            layers.append(nn.Linear(width, hidden))
            if config.head_batch_norm:
                layers.append(nn.BatchNorm1d(hidden))
            layers.append(nn.GELU())
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, config.head_bottleneck_size))
        self.prototypes = Prototypes(config)

    def project(self, features: Tensor) -> Tensor:
        """`[..., hidden]` -> L2-normalised `[..., bottleneck]`, in autocast's dtype if autocast is enabled."""
        features = features.to(self.prototypes.direction.device)
        rows = F.normalize(self.layers(features.flatten(0, -2)), dim=-1)
        if torch.is_autocast_enabled(rows.device.type):
            rows = rows.to(torch.get_autocast_dtype(rows.device.type))
        return rows.unflatten(0, features.shape[:-1])

    def forward(self, features: Tensor) -> Tensor:
        """`[..., hidden]` -> all logits `[..., prototypes]`; the loss computes them in chunks instead."""
        return self.prototypes(self.project(features))


class SuiteDINOPreTrainedModel(SuiteViTPreTrainedModel):
    """Initialisation shared by the DINO classes: the backbone's; prototypes start as torch's linear layer does."""

    config_class = SuiteDINOConfig
    _no_split_modules = [*SuiteViTPreTrainedModel._no_split_modules, "ProjectionHead"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.BatchNorm1d):
            for ones in (module.weight, module.running_var):
                init.ones_(ones)
            for zeros in (module.bias, module.running_mean, module.num_batches_tracked):
                init.zeros_(zeros)
        elif isinstance(module, Prototypes):
            bound = module.direction.shape[1] ** -0.5
            init.uniform_(module.direction, -bound, bound)
            init.ones_(module.gain)
        elif isinstance(module, Center):
            init.zeros_(module.logits)


class SuiteDINOModel(SuiteDINOPreTrainedModel, SuiteViTModel):
    """The backbone, a plain vision transformer; a pretraining checkpoint loads its teacher."""

    _keys_to_ignore_on_load_unexpected = PRETRAINING_KEYS


class SuiteDINOForPreTraining(SuiteDINOPreTrainedModel):
    """Student, teacher, heads, centre and loss. The teacher, `vit`, starts equal to the student, without gradient.

    A training step is `model(...).loss.backward()`, the optimiser's step and `model.update_teacher(momentum)`. If a
    gradient scaler skips the optimiser's step, call `model.forget_step()` instead of `update_teacher`.
    """

    def __init__(self, config: SuiteDINOConfig):
        super().__init__(config)
        self.vit = SuiteDINOModel(config)
        self.teacher_head = ProjectionHead(config)
        self.student = SuiteDINOModel(config)
        self.student_head = ProjectionHead(config)
        self.center = Center(config)
        self.patch_center = Center(config) if config.patch_loss_weight else None
        self.vit.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.post_init()

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialises what is not loaded, as in transformers; a student that is not loaded copies the teacher."""
        super().initialize_weights()
        for teacher, student in self.teacher_and_student():
            init.copy_(student, teacher)

    def train(self, mode: bool = True) -> "SuiteDINOForPreTraining":
        """Sets the mode of all but the teacher's backbone, which stays in eval mode: no dropout, no DropPath."""
        super().train(mode)
        self.vit.eval()
        return self

    def teacher_and_student(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of corresponding teacher and student parameters."""
        for teacher, student in ((self.vit, self.student), (self.teacher_head, self.student_head)):
            yield from zip(teacher.parameters(), student.parameters(), strict=True)

    def centers(self) -> Iterator[Center]:
        """The centre of the class tokens and, with a patch loss, of the patches."""
        yield self.center
        if self.patch_center is not None:
            yield self.patch_center

    def forget_step(self) -> None:
        """Discards what the centres collected since the last update, for a skipped optimiser step."""
        for center in self.centers():
            center.seen = None

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Updates centre and teacher after an optimiser's step (algorithm 1).

        Args:
            momentum: Weight of the old teacher in the moving average, from 0 to 1.
        """
        for center in self.centers():
            center.update(self.teacher_head.prototypes)
        teacher, student = zip(*self.teacher_and_student(), strict=True)
        get_ema_multi_avg_fn(momentum)(teacher, student, None)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        local_pixel_values: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        teacher_temperature: float | None = None,
        output_statistics: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        attention_layers: Sequence[int] | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
        **kwargs,
    ) -> SuiteDINOForPreTrainingOutput:
        """Computes the loss of the student's predictions against the teacher's targets from other crops.

        Args:
            pixel_values: The global crops, `[batch, crops, channels, height, width]`; 2 crops in the paper.
            local_pixel_values: The local crops, `[batch, crops, channels, height, width]`, smaller; default none.
            bool_masked_pos: `[batch, global crops, patches]`, True where the mask token replaces the student's patch;
                required by the patch loss.
            teacher_temperature: Temperature of the teacher's softmax; default the config's.
            output_statistics: Whether to return `teacher_entropy` and `center_divergence`, which reveal a collapse;
                costs a few passes over the prototypes.
            output_attentions: Of the teacher, as in `SuiteViTModel`, likewise `output_hidden_states` and
                `attention_layers`.
            interpolate_pos_encoding: For all crops, as in `SuiteViTModel`, likewise `return_dict`.

        Raises:
            ValueError: If crops are missing, shapes don't fit, there is no pair of different crops, the patch loss
                lacks masks, or KoLeo is on and the batch has one image.
        """
        self.check_inputs(kwargs, pixel_values=pixel_values)
        check_crops(pixel_values, local_pixel_values)
        if interpolate_pos_encoding:
            pixel_values = whole_patches(pixel_values, self.config.patch_size)
            if local_pixel_values is not None:
                local_pixel_values = whole_patches(local_pixel_values, self.config.patch_size)
        temperature = teacher_temperature or self.config.teacher_temperature
        masks = None if bool_masked_pos is None else bool_masked_pos.flatten(0, 1)
        with torch.no_grad():
            seen = self.vit(
                pixel_values.flatten(0, 1),
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                attention_layers=attention_layers,
                num_output_tokens=self.num_tokens,
                return_dict=True,
            )
            teacher = self.teacher_head.project(seen.pooler_output)
            targets = self.make_targets(teacher, self.center, temperature)
        learned, class_tokens = self.encode_student(pixel_values, local_pixel_values, masks)
        parts = {"class_loss": self.class_loss(class_tokens, targets)}
        if self.config.koleo_weight:
            parts["koleo_loss"] = sum(koleo_loss(crop) for crop in class_tokens.unbind(1)[: pixel_values.shape[1]])
        if self.config.patch_loss_weight:
            parts["patch_loss"] = self.patch_loss(learned, seen.last_hidden_state, masks, temperature)
        weights = {"koleo_loss": self.config.koleo_weight, "patch_loss": self.config.patch_loss_weight}
        statistics = self.statistics(teacher, targets, temperature) if output_statistics else {}
        return SuiteDINOForPreTrainingOutput(
            loss=sum(weights.get(name, 1.0) * part for name, part in parts.items()),
            **parts,
            **statistics,
            hidden_states=seen.hidden_states,
            attentions=seen.attentions,
        )

    @property
    def num_tokens(self) -> int | None:
        """Tokens per global crop that the loss reads: 1, the class token, or `None` (all) with a patch loss."""
        return None if self.config.patch_loss_weight else 1

    def encode_student(
        self, pixel_values: Tensor, local_pixel_values: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Runs the student's backbone, crops of one size in one batch.

        Args:
            pixel_values: `[batch, global crops, channels, height, width]`.
            local_pixel_values: `[batch, local crops, channels, height, width]`.
            masks: `[batch * global crops, patches]`, True where masked.

        Returns:
            Tokens of the global crops, `[batch * global crops, tokens, hidden]`, and class tokens `[batch, crops,
            hidden]`, those of the global crops first.
        """
        options = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
        learned = self.student(
            pixel_values.flatten(0, 1), bool_masked_pos=masks, num_output_tokens=self.num_tokens, **options
        )
        class_tokens = learned.pooler_output.unflatten(0, pixel_values.shape[:2])
        if local_pixel_values is not None:
            local = self.student(local_pixel_values.flatten(0, 1), num_output_tokens=1, **options).pooler_output
            class_tokens = torch.cat((class_tokens, local.unflatten(0, local_pixel_values.shape[:2])), dim=1)
        return learned.last_hidden_state, class_tokens

    def make_targets(self, features: Tensor, center: Center, temperature: float) -> Targets:
        """Targets from the teacher's `[rows, bottleneck]`; in training the centre collects these features."""
        if self.training:
            center.collect(features)
        prototypes = self.teacher_head.prototypes
        if self.config.centering == "sinkhorn_knopp":
            return sinkhorn_knopp_targets(features, prototypes, temperature)
        return softmax_targets(features, prototypes, temperature, center.logits)

    def class_loss(self, class_tokens: Tensor, targets: Targets) -> Tensor:
        """Cross-entropy of all pairs except those of the same crop (section 3.1, eq. 3), mean over pairs and images.

        Args:
            class_tokens: `[batch, crops, hidden]`, the student's, global crops first.
            targets: The teacher's, of `batch * global crops` rows.
        """
        images, num_crops = class_tokens.shape[:2]
        student = self.student_head.project(class_tokens)
        pairs = torch.ones(num_crops, targets.features.shape[0] // images, device=student.device).fill_diagonal_(0)
        weights = (pairs / (pairs.sum() * images)).expand(images, -1, -1)
        prototypes, temperature = self.student_head.prototypes, self.config.student_temperature
        return cross_entropy(student, prototypes, targets.to(student.device), temperature, weights)

    def patch_loss(self, student: Tensor, teacher: Tensor, masks: Tensor | None, temperature: float) -> Tensor:
        """Cross-entropy of masked patches with the teacher's unmasked ones (iBOT, arXiv 2111.07832, eq. 2).

        Args:
            student: `[batch * global crops, tokens, hidden]`; `teacher` has the same shape.
            masks: `[batch * global crops, patches]`, True where masked.
            temperature: The teacher's.

        Returns:
            The mean over each crop's masked patches, then over all crops; crops without masked patches count as 0.

        Raises:
            ValueError: If `masks` is `None`.
        """
        if masks is None:
            raise ValueError("the patch loss needs bool_masked_pos, which says where the student sees the mask token")
        prefix = self.config.num_prefix_tokens
        with torch.no_grad():
            taught = self.teacher_head.project(teacher[:, prefix:][masks])
            targets = self.make_targets(taught, self.patch_center, temperature)
        learned = self.student_head.project(student[:, prefix:][masks])
        share = 1 / (masks.shape[0] * masks.sum(dim=1, keepdim=True).clamp(min=1))
        weights = share.expand_as(masks)[masks].view(-1, 1, 1).to(learned.device)
        prototypes, student_temperature = self.student_head.prototypes, self.config.student_temperature
        return cross_entropy(
            learned.unsqueeze(1), prototypes, targets.to(learned.device), student_temperature, weights
        )

    @torch.no_grad()
    def statistics(self, teacher: Tensor, targets: Targets, temperature: float) -> dict[str, Tensor]:
        """`teacher_statistics` of the teacher's features `[rows, bottleneck]`, by output name."""
        plain = softmax_targets(teacher, self.teacher_head.prototypes, temperature)
        entropy, divergence = teacher_statistics(targets, plain, self.center.logits, temperature)
        return {"teacher_entropy": entropy, "center_divergence": divergence}


def check_crops(pixel_values: Tensor, local_pixel_values: Tensor | None) -> None:
    """Raises a ValueError unless there is a pair of different crops."""
    for name, crops in (("pixel_values", pixel_values), ("local_pixel_values", local_pixel_values)):
        if crops is not None and crops.ndim != 5:
            raise ValueError(
                f"{name} must be [batch, crops, channels, height, width], got {list(crops.shape)}: "
                "DINO compares several crops of each image"
            )
    if local_pixel_values is None and pixel_values.shape[1] < 2:
        raise ValueError("DINO needs two global crops of an image, or one plus local crops, got only one global crop")


class SuiteDINOBackbone(TrunkBackbone, SuiteDINOPreTrainedModel):
    """Feature maps for dense prediction, through `AutoBackbone`; a pretraining checkpoint loads its teacher."""

    _keys_to_ignore_on_load_unexpected = PRETRAINING_KEYS

    def __init__(self, config: SuiteDINOConfig):
        super().__init__(config)
        self.vit = SuiteDINOModel(config)
        self.post_init()


AUTO_CLASSES = (
    ("AutoModel", SuiteDINOModel),
    ("AutoModelForPreTraining", SuiteDINOForPreTraining),
    ("AutoBackbone", SuiteDINOBackbone),
)
join_auto_classes(AUTO_CLASSES)

__all__ = [
    "SuiteDINOBackbone",
    "SuiteDINOForPreTraining",
    "SuiteDINOForPreTrainingOutput",
    "SuiteDINOModel",
    "SuiteDINOPreTrainedModel",
]
