"""transformers' Trainer with what vision transformers need: layer-wise rates, soft labels, distillation, averaging."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset, IterableDataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from ..data import AugmentedImages, AugmentedStream, ImageMixer, RowTransform
from .arguments import RecipeArguments
from .distillation import Teacher, distillation_loss
from .ema import WeightAverage
from .optimization import decayed_parameter_names, layer_decay_groups


class AugmentationEpoch(TrainerCallback):
    """Tells `AugmentedImages` which epoch it is, in any Trainer of transformers.

    accelerate's loader does so too, but neither in distributed runs nor in the epoch in which a run resumes.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, train_dataloader, **kwargs
    ) -> None:
        if isinstance(train_dataloader.dataset, AugmentedImages):
            train_dataloader.dataset.set_epoch(int(state.epoch))


class SkippedSteps(TrainerCallback):
    """Tells accelerate which steps the gradient scaler of float16 skipped; with them the schedule and averages stay.

    accelerate 1.15 takes a step as skipped where the optimiser's `step` was not called. A fused optimiser, Trainer's
    default, is always called and skips inside. The scaler lowers its scale after each skipped step.

    Args:
        trainer: Whose steps they are.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.scale: float | None = None  # read once a step, as each reading waits for the device

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
    rows: Dataset | IterableDataset, transform: RowTransform, arguments: TrainingArguments
) -> AugmentedImages | AugmentedStream:
    """The rows that a recipe trains on, transformed when they are read.

    Raises:
        ValueError: If they are a stream without a readable image, or `arguments` don't say how long to train.
    """
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    if not isinstance(rows, IterableDataset):
        return AugmentedImages(rows, transform, seed)
    if arguments.max_steps <= 0:
        raise ValueError("a streamed data set has no length: say with --max_steps how long to train")
    if next(iter(rows), None) is None:
        raise ValueError("the streamed training data have no readable image: check --dataset")
    return AugmentedStream(rows, transform, seed)


class SuiteTrainer(Trainer):
    """Trainer of every recipe: which weights decay, augmentation by epoch, and the recipe's own model card."""

    loss_is_scaled_for_ga = False  # the loss is a mean over the batch
    decays_tokens = True  # as in pretraining

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.noticed: dict[str, Tensor] = {}
        self.add_callback(AugmentationEpoch())
        self.add_callback(SkippedSteps(self))

    @property
    def is_logged(self) -> bool:
        """Whether the step that is being taken ends with a line of the log."""
        return (self.state.global_step + 1) % self.state.logging_steps == 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what a recipe has put into `noticed` in the last step, scalars, as means over the processes."""
        if "loss" in logs and self.noticed:
            values = self.accelerator.reduce(torch.stack([value.float() for value in self.noticed.values()]), "mean")
            logs |= dict(zip(self.noticed, values.tolist(), strict=True))
            self.noticed = {}
        super().log(logs, start_time)

    def refuse_data_parallel(self) -> None:
        """Refuses torch's DataParallel, whose copies of the model see a part of the batch each and then vanish.

        Raises:
            ValueError: If one process has several GPUs.
        """
        if self.args.n_gpu > 1:
            raise ValueError(
                f"this method needs one process a GPU, got one for {self.args.n_gpu}: start it by `accelerate launch`"
            )

    def get_train_dataloader(self) -> DataLoader:
        """Batches of the training rows; of a stream each process reads a part of its own.

        accelerate would let the first process read for all, which batches of texts of different lengths don't allow.
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
        )

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return sorted(decayed_parameter_names(model, self.decays_tokens))

    def create_model_card(self, *args, **kwargs) -> None:
        """Keeps the card that the recipe writes from measured figures: Trainer's own would replace it."""


class ClassificationTrainer(SuiteTrainer):
    """Trainer of image classifiers.

    Args:
        recipe: Layer decay and distillation.
        mixer: Mixup and cutmix of training batches.
        teacher: Classifier to distil from; `None` is none.
        average: Moving average of the weights; evaluation runs with it. `None` is none.
        **kwargs: Trainer's own.
    """

    decays_tokens = False

    def __init__(
        self,
        recipe: RecipeArguments,
        mixer: ImageMixer,
        teacher: Teacher | None = None,
        average: WeightAverage | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.recipe = recipe
        self.mixer = mixer
        self.teacher = teacher.to(self.args.device) if teacher is not None else None
        self.average = average
        if average is not None:
            self.add_callback(average)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new and self.recipe.layer_decay != 1:
            optimizer.param_groups = layer_decay_groups(
                model or self.model, optimizer.param_groups, self.args.learning_rate, self.recipe.layer_decay
            )
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ImageClassifierOutput]:
        """Cross-entropy with class numbers or mixed labels, and the teacher's part in training."""
        pixel_values, labels = inputs["pixel_values"], inputs["labels"]
        if model.training:
            # Mixing here, not in the data loader, draws from the random state that checkpoints keep.
            pixel_values, labels = self.mixer(pixel_values, labels)
        outputs = model(pixel_values)
        if not model.training:
            loss = F.cross_entropy(outputs.logits, labels)
        elif self.teacher is None:
            loss = self.label_loss(outputs.logits, labels)
        else:
            loss = self.distilled_loss(outputs, self.teacher(pixel_values), labels)
        return (loss, outputs) if return_outputs else loss

    def label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, smoothed by `label_smoothing_factor`; a scalar."""
        return F.cross_entropy(logits, labels, label_smoothing=self.args.label_smoothing_factor)

    def distilled_loss(self, outputs: ImageClassifierOutput, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """DeiT's objective: the class head learns the labels, the distillation head the teacher."""
        class_logits = distillation_logits = outputs.logits
        if getattr(outputs, "distillation_logits", None) is not None:
            class_logits, distillation_logits = outputs.class_logits, outputs.distillation_logits
        of_teacher = distillation_loss(
            distillation_logits,
            teacher_logits,
            self.recipe.distillation,
            self.recipe.distillation_temperature,
        )
        alpha = self.recipe.distillation_alpha
        return (1 - alpha) * self.label_loss(class_logits, labels) + alpha * of_teacher

    def evaluation_loop(self, *args, **kwargs):
        in_use = self.average.in_use(self.model) if self.average is not None else nullcontext()
        with in_use:
            return super().evaluation_loop(*args, **kwargs)


def first_output(logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
    """The prediction among a model's outputs, for Trainer's `preprocess_logits_for_metrics`."""
    return logits[0] if isinstance(logits, tuple) else logits
