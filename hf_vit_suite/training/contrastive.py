"""CLIP's Trainer: the loss over every process, the clamped scale, what is logged.

Source: Radford et al. 2021, arXiv 2103.00020, section 2.5 and tables 18 to 20.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils.generic import ModelOutput

from .arguments import SuiteTrainingArguments
from .trainer import SuiteTrainer


@dataclass
class CLIPTrainingArguments(SuiteTrainingArguments):
    """TrainingArguments with the paper's recipe (tables 18 and 20): 32 epochs of AdamW."""

    output_dir: str | None = field(default="outputs/clip", metadata={"help": "Folder of the trained model."})
    num_train_epochs: float = field(default=32.0, metadata={"help": "Passes over the pairs."})
    per_device_train_batch_size: int = field(
        default=128,
        metadata={"help": "Pairs a device and step; each is told from all others, so the more the better."},
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate; 4e-4 for a ViT-L in the paper."})
    weight_decay: float = field(
        default=0.2, metadata={"help": "Weight decay of all weights but norms, biases and the temperature."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of AdamW."})
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Leave out the last pairs of an epoch where they fill no batch."}
    )
    cached_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Pairs whose activations are kept at a time, so that any batch fits; the gradients are those of "
            "the whole batch, for one more forward pass. Default all."
        },
    )
    local_loss: bool = field(
        default=True,
        metadata={
            "help": "In several processes, each computes the loss of its own pairs, not of all; gradients agree."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        if self.cached_batch_size is not None and self.cached_batch_size < 1:
            raise ValueError(f"--cached_batch_size must be at least 1, got {self.cached_batch_size}")
        if self.pairs_compared < 2:
            raise ValueError(
                "--per_device_train_batch_size 1: a pair is learned by telling it from the others of its batch, and "
                "alone its loss is always 0: give at least 2"
            )

    @property
    def pairs_compared(self) -> int:
        """Pairs that are told from one another: of all processes, not of accumulated batches."""
        return self.train_batch_size * self.world_size


class CLIPTrainer(SuiteTrainer):
    """Trainer of `SuiteCLIPModel`."""

    args: CLIPTrainingArguments

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.refuse_data_parallel()
        self.add_callback(ScaleClamp())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The model's loss over the pairs of every process."""
        outputs = model(
            **inputs,
            return_loss=True,
            cached_batch_size=self.args.cached_batch_size,
            local_loss=self.args.local_loss,
        )
        if self.is_logged:
            scale = self.accelerator.unwrap_model(model).logit_scale
            self.noticed = {
                "in_batch_accuracy": outputs.accuracy,
                "temperature": torch.exp(-scale.detach()).to(outputs.accuracy.device),
            }
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class ScaleClamp(TrainerCallback):
    """Keeps the inverse temperature at 100 or below after each step of the optimiser."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        model.clamp_scale()
