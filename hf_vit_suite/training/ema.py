"""A moving average of the weights during training, which the finished model keeps."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..output import staged_file

EMA_FILE = "ema.safetensors"


class WeightAverage(TrainerCallback):
    """Exponential moving average of the trained weights (Polyak and Juditsky 1992), as in ViT recipes.

    After each step average = decay * average + (1 - decay) * weights, with the decay held to at most
    (1 + step) / (10 + step), so that the first weights decay fast. Checkpoints store the average beside the
    weights. Evaluation uses the average. At the end the model gets the average, that of the best checkpoint if one is
    loaded.

    Args:
        decay: Above 0, below 1; 0.9999 for long runs.
        resume_from: Checkpoint folder to load the average from; `None` starts from the model's weights.

    Raises:
        ValueError: If the decay is out of range, or the checkpoint to resume from has no average.
    """

    def __init__(self, decay: float, resume_from: str | None = None):
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay must be above 0 and below 1, got {decay}")
        self.decay = decay
        self.resume_from = resume_from
        self.average: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        if self.resume_from is not None:
            self.load(self.resume_from, args.device)
        else:
            self.average = {name: weight.detach().clone() for name, weight in trained(model)}

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module,
        optimizer: AcceleratedOptimizer | None = None,
        **kwargs,
    ) -> None:
        if optimizer is not None and optimizer.step_was_skipped:  # by the gradient scaler of float16
            return
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        weights = dict(trained(model))
        with torch.no_grad():
            update = get_ema_multi_avg_fn(decay)
            update(list(self.average.values()), [weights[name].detach() for name in self.average], None)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if args.should_save:
            with staged_file(Path(args.output_dir, f"checkpoint-{state.global_step}", EMA_FILE)) as path:
                save_file(self.average, path)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load(state.best_model_checkpoint, args.device)
        self.exchange(model)
        self.average = {}

    def load(self, checkpoint: str, device: torch.device) -> None:
        """Loads the average of a checkpoint folder."""
        path = os.path.join(checkpoint, EMA_FILE)
        if not os.path.isfile(path):
            raise ValueError(f"{checkpoint} has no {EMA_FILE}: saved without --ema_decay, it resumes without it too")
        self.average = load_file(path, device=str(device))

    def exchange(self, model: nn.Module) -> None:
        """Swaps the model's weights and the average in place."""
        with torch.no_grad():
            for name, weight in trained(model):
                kept = weight.detach().clone()
                weight.copy_(self.average[name])
                self.average[name] = kept

    @contextmanager
    def in_use(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model has the averaged weights, once there are any."""
        if not self.average:
            yield
            return
        self.exchange(model)
        try:
            yield
        finally:
            self.exchange(model)


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that training changes."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)
