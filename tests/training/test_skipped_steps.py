"""Steps that the gradient scaler of float16 skips: nothing that follows the optimiser may move either."""

import copy
from pathlib import Path

import pytest
import torch
from families import TINY_DINO
from references_of_training import tiny_classifier
from torch.amp import GradScaler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_vit_suite import SuiteDINOConfig, SuiteDINOForPreTraining
from hf_vit_suite.data import ImageMixer
from hf_vit_suite.training.dino import DINOTrainer, DINOTrainingArguments
from hf_vit_suite.training.ema import WeightAverage
from hf_vit_suite.training.finetune import ClassificationTrainer, FinetuneMethodArguments, FinetuneTrainingArguments
from hf_vit_suite.training.trainer import SuiteTrainer

# Without clipping: accelerate takes the scale out of the gradients before it for float16 alone.
QUICK = {
    "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1,
    "max_grad_norm": 0.0, "per_device_train_batch_size": 4, "warmup_steps": 0, "learning_rate": 0.01,
}  # fmt: skip
# The default skips a step inside the fused kernel, where accelerate does not see it.
every_optimizer = pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])
# Of 32: its batch has no finite gradient, as one that overflows float16.
OVERFLOWING = 13


class Snapshots(TrainerCallback):
    """What a step left, and whether the scaler skipped it."""

    def __init__(self, take):
        self.take = take
        self.taken = [copy.deepcopy(take())]
        self.was_skipped: list[bool] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer, **kwargs
    ) -> None:
        self.was_skipped.append(optimizer.step_was_skipped)
        self.taken.append(copy.deepcopy(self.take()))


def train(trainer: SuiteTrainer, take) -> Snapshots:
    """Trains under a gradient scaler, which accelerate makes for float16 on GPUs alone."""
    trainer.accelerator.scaler = GradScaler("cpu")
    snapshots = Snapshots(take)
    trainer.add_callback(snapshots)
    trainer.train()
    assert snapshots.was_skipped.count(True) == 1
    assert len(snapshots.was_skipped) == 8
    assert trainer.lr_scheduler.last_epoch == 7
    return snapshots


@every_optimizer
def test_teacher_and_centre_stay_in_a_skipped_step(optim: str, tmp_path: Path):
    model = SuiteDINOForPreTraining(SuiteDINOConfig(**TINY_DINO))
    arguments = DINOTrainingArguments(
        output_dir=str(tmp_path), teacher_momentum=0.5, freeze_prototypes_epochs=0, optim=optim, **QUICK
    )
    rows = [{"pixel_values": torch.randn(2, 3, 32, 32)} for _ in range(32)]
    rows[OVERFLOWING]["pixel_values"][0, 0, 0, 0] = torch.inf
    trainer = DINOTrainer(model=model, args=arguments, train_dataset=rows)
    snapshots = train(trainer, lambda: {"center": model.center.logits, "teacher": model.vit.norm.bias.detach()})
    for is_skipped, before, after in zip(snapshots.was_skipped, snapshots.taken, snapshots.taken[1:], strict=False):
        for name in ("center", "teacher"):
            assert torch.equal(after[name], before[name]) == is_skipped, name
            assert after[name].isfinite().all()


@every_optimizer
def test_weight_average_stays_in_a_skipped_step(optim: str, tmp_path: Path):
    model, average = tiny_classifier(), WeightAverage(0.5)
    arguments = FinetuneTrainingArguments(
        output_dir=str(tmp_path), eval_strategy="no", load_best_model_at_end=False, optim=optim, **QUICK
    )
    rows = [{"pixel_values": torch.randn(3, 16, 16), "labels": number % 3} for number in range(32)]
    rows[OVERFLOWING]["pixel_values"][0, 0, 0] = torch.inf
    trainer = ClassificationTrainer(
        method=FinetuneMethodArguments(),
        mixer=ImageMixer(3),
        average=average,
        model=model,
        args=arguments,
        train_dataset=rows,
    )
    snapshots = train(trainer, lambda: average.average.get("classifier.bias", torch.zeros(3)))
    for is_skipped, before, after in zip(snapshots.was_skipped, snapshots.taken, snapshots.taken[1:], strict=False):
        assert torch.equal(after, before) == is_skipped
