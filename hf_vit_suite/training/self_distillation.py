"""DINO's Trainer: a teacher that follows the student, schedules, and what shows a collapse.

Source: Caron et al. 2021, arXiv 2104.14294, section 3 and its code; a step is counted from 0, as an epoch is.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.generic import ModelOutput

from .pretraining import PretrainingArguments
from .schedules import cosine_schedule, epoch_warm_up
from .trainer import SuiteTrainer

# A stream has no epochs of its own: as many steps count as one, as in DINOv2.
STREAMED_EPOCH_STEPS = 1250
MIN_LEARNING_RATE = 1e-6
LOGGED = ("class_loss", "koleo_loss", "patch_loss", "teacher_entropy", "center_divergence")


@dataclass
class DINOTrainingArguments(PretrainingArguments):
    """TrainingArguments with the paper's recipe: 100 epochs of which 10 warm up."""

    output_dir: str | None = field(default="outputs/dino", metadata={"help": "Folder of the trained model."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Passes over the images; 800 for the best."})
    base_learning_rate: float = field(
        default=5e-4, metadata={"help": "Peak learning rate of a total batch of 256 images."}
    )
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of linear warm-up, or below 1 their share."})
    weight_decay: float = field(
        default=0.04, metadata={"help": "Weight decay at the start; norms and biases have none."}
    )
    final_weight_decay: float = field(default=0.4, metadata={"help": "Weight decay at the end, reached by a cosine."})
    max_grad_norm: float = field(
        default=3.0,
        metadata={"help": "Largest norm of each weight's own gradient, as the paper clips; 0 is no limit."},
    )
    teacher_momentum: float = field(
        default=0.996,
        metadata={"help": "Share of itself that the teacher keeps a step, at the start; 1 at the end, by a cosine."},
    )
    initial_teacher_temperature: float = field(
        default=0.04, metadata={"help": "Teacher's temperature in the first epoch; the model's own ends the warm-up."}
    )
    teacher_temperature_warmup_epochs: int = field(
        default=30, metadata={"help": "Epochs in which the teacher's temperature rises."}
    )
    freeze_prototypes_epochs: int = field(
        default=1, metadata={"help": "Epochs in which the last layer of the head stays as it is."}
    )

    def __post_init__(self):
        if self.fsdp or self.deepspeed:
            raise ValueError(
                "DINO averages whole weights, which --fsdp and --deepspeed split: leave them out, several processes "
                "train with DistributedDataParallel"
            )
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr": MIN_LEARNING_RATE}
        super().__post_init__()
        if not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"--teacher_momentum must be from 0 to 1, got {self.teacher_momentum}")
        if self.initial_teacher_temperature <= 0:
            raise ValueError(f"--initial_teacher_temperature must be above 0, got {self.initial_teacher_temperature}")


class DINOTrainer(SuiteTrainer):
    """Trainer of `SuiteDINOForPreTraining`."""

    args: DINOTrainingArguments

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.refuse_data_parallel()
        for callback in (PrototypeFreezing(self), WeightDecaySchedule(self), TeacherUpdate(self)):
            self.add_callback(callback)

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to."""
        if isinstance(self.train_dataset, IterableDataset):
            return self.state.global_step // STREAMED_EPOCH_STEPS
        return int(self.state.epoch)

    @property
    def teacher_temperature(self) -> float:
        """The teacher's temperature of this epoch."""
        return epoch_warm_up(
            self.args.initial_teacher_temperature,
            self.model.config.teacher_temperature,
            self.epoch,
            self.args.teacher_temperature_warmup_epochs,
        )

    def scheduled(self, start: float, end: float) -> float:
        """A cosine over the whole run, at the step that is being taken."""
        return cosine_schedule(start, end, self.state.global_step, self.state.max_steps)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The model's loss, at this epoch's temperature."""
        temperature = self.teacher_temperature
        outputs = model(**inputs, teacher_temperature=temperature, output_statistics=self.is_logged)
        if self.is_logged:
            self.noticed = {name: outputs[name].detach() for name in LOGGED if outputs.get(name) is not None}
            self.noticed["teacher_temperature"] = outputs.loss.new_tensor(temperature)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the weight decay to the parts of the last step's loss and its statistics."""
        if "loss" in logs:
            logs["weight_decay"] = self.optimizer.param_groups[0]["weight_decay"]
        super().log(logs, start_time)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clips each weight's gradient by itself; returns the norm of all before."""
        self.accelerator.unscale_gradients(self.optimizer)
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        norms = [clip_grad_norm_([weight], self.args.max_grad_norm) for weight in weights]
        return torch.linalg.vector_norm(torch.stack(norms))


class DINOCallback(TrainerCallback):
    """Base of what happens around a step.

    Args:
        trainer: Whose step it is.
    """

    def __init__(self, trainer: DINOTrainer):
        self.trainer = trainer


class PrototypeFreezing(DINOCallback):
    """Keeps the last layer of the student's head as it is for the first epochs, which steadies their start."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.trainer.epoch < args.freeze_prototypes_epochs:
            for weight in self.trainer.model.student_head.prototypes.parameters():
                weight.grad = None


class WeightDecaySchedule(DINOCallback):
    """Raises the weight decay of the first group of parameters, the one that decays, from step to step."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer, **kwargs
    ) -> None:
        optimizer.param_groups[0]["weight_decay"] = self.trainer.scheduled(args.weight_decay, args.final_weight_decay)


class TeacherUpdate(DINOCallback):
    """Moves teacher and centre after each step of the optimiser.

    A step that the gradient scaler of float16 skipped leaves both as they are: its features may be infinite.
    """

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.model.forget_step()
            return
        self.trainer.model.update_teacher(self.trainer.scheduled(args.teacher_momentum, 1.0))
