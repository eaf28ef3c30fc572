"""Distillation from any image classifier through the distillation token, as in DeiT."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from ..data import input_size
from ..inference.opening import open_pretrained
from ..inference.scores import require_one_label


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, kind: str, temperature: float) -> Tensor:
    """The teacher's part of the loss.

    Hard: cross-entropy with the teacher's decision (DeiT, arXiv 2012.12877, eq. 3). Soft: temperature^2 times the
    Kullback-Leibler divergence of the softened distributions (eq. 2), averaged over batch and labels, as the
    authors' code does.

    Args:
        student_logits: `[batch, labels]`, of the distillation token.
        teacher_logits: `[batch, labels]`.
        kind: "hard" or "soft".
        temperature: Divides both logits in the soft form.

    Returns:
        A scalar.
    """
    if kind == "hard":
        return F.cross_entropy(student_logits, teacher_logits.argmax(dim=-1))
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2 / student.numel()


class Teacher(nn.Module):
    """A frozen classifier that receives the student's augmented batch in its own size and normalisation.

    Args:
        name: Folder or Hub name that `AutoModelForImageClassification` and `AutoImageProcessor` open.
        label_names: The student's labels in order; the teacher's must be the same set.
        student_processor: Image processor of the student, which normalised the batch.

    Raises:
        ValueError: If the teacher's labels differ from the student's, or are not mutually exclusive.
    """

    def __init__(self, name: str, label_names: list[str], student_processor):
        super().__init__()
        config = open_pretrained(AutoConfig, name)
        if sorted(config.id2label.values()) != sorted(label_names):
            raise ValueError(
                f"the teacher {name} knows other labels than the data: it has {len(config.id2label)} "
                f"({', '.join(list(config.id2label.values())[:3])}, ...), the data {len(label_names)} "
                f"({', '.join(label_names[:3])}, ...): fine-tune the teacher on this data first"
            )
        require_one_label(config, f"the teacher {name}", "distillation")
        index = {label: number for number, label in config.id2label.items()}
        processor = open_pretrained(AutoImageProcessor, name)
        self.model = open_pretrained(AutoModelForImageClassification, name).eval().requires_grad_(False)
        self.size = input_size(processor)
        self.register_buffer("order", torch.tensor([index[label] for label in label_names]), persistent=False)
        scale, shift = renormalisation(student_processor, processor)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[batch, channels, height, width]`, normalised for the student -> logits in the student's label order."""
        pixel_values = pixel_values * self.scale + self.shift
        if pixel_values.shape[-2:] != self.size:
            pixel_values = F.interpolate(pixel_values, size=self.size, mode="bicubic", antialias=True)
        return self.model(pixel_values).logits[:, self.order]


def renormalisation(source, target) -> tuple[Tensor, Tensor]:
    """Scale and shift `[channels, 1, 1]` from the source processor's normalisation to the target's."""
    statistics = (source.image_mean, source.image_std, target.image_mean, target.image_std)
    source_mean, source_std, target_mean, target_std = (torch.tensor(values).view(-1, 1, 1) for values in statistics)
    return source_std / target_std, (source_mean - target_mean) / target_std
