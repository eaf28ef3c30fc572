"""transformers' Trainer for every recipe: weight decay and learning rates by parameter, augmentation by epoch."""

import re

import torch
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..data import AugmentedImages, AugmentedStream, ReadableRows, RowTransform, warn_of_unreadable

BLOCK = re.compile(r"(?:^|\.)(?:blocks?|layers?)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)embeddings?\.")


class AugmentationEpoch(TrainerCallback):
    """Sets the epoch of `AugmentedImages`, in any Trainer of transformers.

    accelerate's loader sets it too, but neither in distributed runs nor in the epoch in which a run resumes.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, train_dataloader, **kwargs
    ) -> None:
        if isinstance(train_dataloader.dataset, AugmentedImages):
            train_dataloader.dataset.set_epoch(int(state.epoch))


class SkippedSteps(TrainerCallback):
    """Tells accelerate which steps the gradient scaler of float16 skipped, so that schedule and averages skip them.

    accelerate 1.15 counts a step as skipped if the optimiser's `step` was not called. A fused optimiser, Trainer's
    default, is always called and skips inside. The scaler lowers its scale after each skipped step.

    Args:
        trainer: The Trainer that takes the steps.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.scale: float | None = None  # read once per step, as reading synchronises with the device

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if (scaler := self.trainer.accelerator.scaler) is not None and self.scale is None:
            self.scale = scaler.get_scale()

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: AcceleratedOptimizer,
        **kwargs,
    ) -> None:
        if (scaler := self.trainer.accelerator.scaler) is not None:
            before, self.scale = self.scale, scaler.get_scale()
            optimizer._is_overflow = self.scale < before


def training_rows(
    rows: Dataset | IterableDataset, transform: RowTransform, arguments: TrainingArguments, strict_images: bool = False
) -> AugmentedImages | AugmentedStream:
    """Training rows, transformed when they are read.

    Raises:
        ValueError: If a stream has no image, or `max_steps` is missing for a stream.
    """
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    if not isinstance(rows, IterableDataset):
        return AugmentedImages(rows, transform, seed, strict_images)
    if arguments.max_steps <= 0:
        raise ValueError("a streamed data set has no length: give --max_steps")
    if next(iter(rows), None) is None:
        raise ValueError("the streamed training data have no image: check --dataset")
    return AugmentedStream(rows, transform, seed, strict=strict_images)


def loader_generator(arguments: TrainingArguments) -> torch.Generator:
    """The random numbers of a loader itself, apart from those of rows, which have seeds of their own, and training."""
    return torch.Generator().manual_seed(arguments.seed % 2**63)


class SuiteTrainer(Trainer):
    """Base Trainer of the recipes."""

    loss_is_scaled_for_ga = False  # the loss is a mean over the batch
    decays_tokens = True  # as in pretraining

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noticed: dict[str, Tensor] = {}
        self.add_callback(AugmentationEpoch())
        self.add_callback(SkippedSteps(self))

    @property
    def is_logged(self) -> bool:
        """Whether the current step ends with an entry of the log."""
        return (self.state.global_step + 1) % self.state.logging_steps == 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the scalars that the last step put into `noticed`, averaged over the processes."""
        if "loss" in logs and self.noticed:
            values = self.accelerator.reduce(torch.stack([value.float() for value in self.noticed.values()]), "mean")
            logs |= dict(zip(self.noticed, values.tolist(), strict=True))
            self.noticed = {}
        super().log(logs, start_time)

    def refuse_data_parallel(self) -> None:
        """Refuses torch's DataParallel, whose short-lived replicas each see a part of the batch.

        Raises:
            ValueError: If one process has several GPUs.
        """
        if self.args.n_gpu > 1:
            raise ValueError(
                f"this method needs one process per GPU, got one for {self.args.n_gpu}: use `accelerate launch`"
            )

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the training rows; each process reads its own part of a stream.

        accelerate would read all in the first process, which fails for texts of different lengths.
        """
        if not isinstance(self.train_dataset, AugmentedStream):
            return super().get_train_dataloader()
        return DataLoader(
            self.train_dataset.part(self.args.process_index, self.args.world_size),
            batch_size=self._train_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            generator=loader_generator(self.args),
        )

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """transformers' own, but evaluation measures every image whatever `dataloader_drop_last` is.

        The loader draws the seeds of its workers from a generator of its own. From torch's it would draw once an
        epoch, or once with persistent workers: dropout would depend on the workers, on evaluation and on resuming.
        """
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        getattr(loader, "base_dataloader", loader).generator = loader_generator(self.args)
        return loader

    def unreadable_images(self, *splits: torch.utils.data.Dataset) -> list[str]:
        """A line for each image that could not be decoded, whichever process read it; all processes must call this.

        Args:
            *splits: Rows that were read; streams name theirs while they are read.
        """
        lines = []
        for rows in (self.train_dataset, *splits):
            if isinstance(rows, ReadableRows):
                found = self.accelerator.reduce(rows.unreadable.to(self.args.device, torch.int32), "sum")
                lines += rows.problems(found.cpu() > 0)
        if self.is_world_process_zero():
            warn_of_unreadable(lines)
        return lines

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return sorted(decayed_parameter_names(model, self.decays_tokens))

    def create_model_card(self, *args, **kwargs) -> None:
        """Does nothing: Trainer's card would replace the recipe's."""


def decayed_parameter_names(model: nn.Module, with_tokens: bool) -> set[str]:
    """Names of the parameters with weight decay.

    Norms, biases and LayerScale have one dimension and never decay. Tokens and positions have a first dimension of
    length 1. They decay in pretraining: the code of MAE and DINO exempts one-dimensional parameters and biases alone,
    and CLIP's paper (arXiv 2103.00020, section 2.5) gains and biases. They don't decay in fine-tuning, as in the code
    of ViT, DeiT and MAE.

    Args:
        model: Any model.
        with_tokens: Whether tokens and positions decay.
    """
    return {
        name for name, weight in model.named_parameters() if weight.ndim > 1 and (with_tokens or weight.shape[0] > 1)
    }


def layer_number(name: str, num_layers: int) -> int:
    """Depth of a parameter: 0 the embeddings, 1 to `num_layers` the blocks, `num_layers + 1` the rest (norm, head)."""
    if match := BLOCK.search(name):
        return int(match.group(1)) + 1
    return 0 if EMBEDDING.search(name) else num_layers + 1


def layer_decay_groups(model: nn.Module, groups: list[dict], learning_rate: float, decay: float) -> list[dict]:
    """Splits parameter groups by depth, with `decay` times the learning rate of the next layer.

    Source: BEiT (Bao et al. 2021, arXiv 2106.08254, appendix) and MAE (arXiv 2111.06377, appendix A.1).

    Args:
        model: Any transformer whose blocks are numbered in the parameters' names.
        groups: An optimizer's groups of this model's parameters.
        learning_rate: Learning rate of the head.
        decay: Factor per layer, above 0, at most 1.

    Raises:
        ValueError: If the decay is out of range, or no block is found.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {decay}")
    names = {weight: name for name, weight in model.named_parameters()}
    blocks = [int(match.group(1)) for name in names.values() if (match := BLOCK.search(name))]
    if not blocks:
        raise ValueError(f"layer_decay needs numbered blocks, and {type(model).__name__} has none: leave it at 1")
    num_layers = max(blocks) + 1
    split = []
    for group in groups:
        by_depth: dict[int, list[nn.Parameter]] = {}
        for weight in group["params"]:
            by_depth.setdefault(layer_number(names[weight], num_layers), []).append(weight)
        for depth, weights in sorted(by_depth.items()):
            rate = learning_rate * decay ** (num_layers + 1 - depth)
            split.append({**group, "params": weights, "lr": rate})
    return split
