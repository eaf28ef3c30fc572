"""Pretraining with DINO (Caron et al. 2021, arXiv 2104.14294): its arguments, its Trainer and its recipe.

The objective is in `models/modeling_dino.py`. Schedules follow the paper's code; steps and epochs count from 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import IterableDataset, default_collate
from transformers import (
    AutoModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTImageProcessor,
)
from transformers.utils.generic import ModelOutput

from ..config_overrides import height_and_width, parse_image_size
from ..data import (
    ImageTransform,
    LabelledImages,
    MultiCropTransform,
    UnlabelledImages,
    apply_transform,
    evaluation_transform,
    input_size,
    load_image_dataset,
    multi_crop_transform,
)
from ..evaluation.features import FeatureExtractor, extract_features
from ..evaluation.knn import knn_report
from ..explain import attention_figure, class_token_attention
from ..models.configuration_dino import SuiteDINOConfig
from ..models.embedding import round_to_multiple
from .arguments import (
    SIZE_OPTION,
    PretrainingArguments,
    PretrainingModelArguments,
    Size,
    UnlabelledDataArguments,
    digits_defaults,
)
from .building import build_pretraining_model
from .recipe import Recipe, ReloadCheck, Run, RunArguments
from .results import pretraining_card, pretraining_curves, pretraining_report, pretraining_summary
from .trainer import SuiteTrainer

DEFAULT_PRESET = "dino_vitb16"
FIGURE_IMAGES = 4
# Relative to the side of a global crop: 96 beside 224 pixels in the paper.
LOCAL_SIDE = 3 / 7
# A stream has no epochs; DINOv2 counts this many steps as one.
STREAMED_EPOCH_STEPS = 1250
MIN_LEARNING_RATE = 1e-6
LOGGED = ("class_loss", "koleo_loss", "patch_loss", "teacher_entropy", "center_divergence")
# Enough images to compare states of a model, few enough to measure them often.
MOST_VOTERS, MOST_QUERIES = 20_000, 2_000
NEIGHBOURS = 20


@dataclass
class DINOModelArguments(PretrainingModelArguments):
    """Model options of DINO."""

    num_prototypes: int | None = field(
        default=None, metadata={"help": "outputs of the head; default the model's own, 65536"}
    )
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "stochastic depth of the student's last block; default 0.1"}
    )
    teacher_temperature: float | None = field(
        default=None, metadata={"help": "teacher's temperature after its warm-up; default the model's own, 0.07"}
    )
    centering: str | None = field(default=None, metadata={"help": "center (default) or, as in DINOv2, sinkhorn_knopp"})
    koleo_weight: float | None = field(
        default=None, metadata={"help": "weight of KoLeo, which spreads features; 0.1 in DINOv2, default off"}
    )
    patch_loss_weight: float | None = field(
        default=None, metadata={"help": "weight of iBOT's masked patch loss; 1 in DINOv2, default off"}
    )


@dataclass
class DINOMethodArguments:
    """Crops, and the monitoring of k-NN accuracy."""

    local_crops: int = field(default=8, metadata={"help": "local crops per image; 0 is none"})
    local_image_size: Size | None = field(
        default=None,
        metadata=SIZE_OPTION
        | {
            "help": "size of a local crop in pixels, a side or HEIGHTxWIDTH; default a square near 3/7 of a global "
            "crop's shorter side"
        },
    )
    global_crop_scale: float = field(
        default=0.4, metadata={"help": "smallest fraction of the image in a global crop, and largest in a local one"}
    )
    local_crop_scale: float = field(default=0.05, metadata={"help": "smallest fraction of the image in a local crop"})
    horizontal_flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    knn_steps: int = field(
        default=0,
        metadata={"help": "steps between two k-NN accuracies of the features, for data with labels; 0 is none"},
    )
    label_column: str | None = field(
        default=None,
        metadata={"help": "column of the labels for --knn_steps; default found by type"},
    )

    def __post_init__(self):
        if self.local_image_size is not None:
            self.local_image_size = parse_image_size(self.local_image_size, "--local_image_size")


# Defaults for the data set that comes with the package. On few, small images DINOv2's additions and a faster teacher
# learn in minutes.
DIGITS_DEFAULTS = {
    "config_overrides": "image_size=32,patch_size=8,hidden_size=128,num_hidden_layers=4,num_attention_heads=4,"
    "intermediate_size=512,head_hidden_size=512,head_bottleneck_size=128,num_prototypes=1024,centering=sinkhorn_knopp,"
    "koleo_weight=0.1,teacher_temperature=0.04",
    "horizontal_flip": 0.0,
    "local_crops": 4,
    "global_crop_scale": 0.5,
    "local_crop_scale": 0.2,
    "num_train_epochs": 50.0,
    "base_learning_rate": 4e-3,
    "teacher_momentum": 0.99,
    "final_weight_decay": 0.04,
    "knn_steps": 200,
}


@dataclass
class DINOTrainingArguments(PretrainingArguments):
    """TrainingArguments with the paper's recipe: 100 epochs of which 10 warm up."""

    output_dir: str | None = field(default="outputs/dino", metadata={"help": "folder of the trained model"})
    num_train_epochs: float = field(default=100.0, metadata={"help": "passes over the images; up to 800 in the paper"})
    base_learning_rate: float = field(
        default=5e-4, metadata={"help": "peak learning rate of a total batch of 256 images"}
    )
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "steps of linear warm-up; below 1 a fraction of all"})
    weight_decay: float = field(
        default=0.04, metadata={"help": "weight decay at the start; none for norms and biases"}
    )
    final_weight_decay: float = field(default=0.4, metadata={"help": "weight decay at the end, reached by a cosine"})
    max_grad_norm: float = field(
        default=3.0,
        metadata={"help": "largest norm of each weight's own gradient, as in the paper; 0 is no limit"},
    )
    teacher_momentum: float = field(
        default=0.996,
        metadata={"help": "momentum of the teacher at the start; 1 at the end, by a cosine"},
    )
    initial_teacher_temperature: float = field(
        default=0.04, metadata={"help": "teacher's temperature in the first epoch of its warm-up"}
    )
    teacher_temperature_warmup_epochs: int = field(
        default=30, metadata={"help": "epochs of the temperature's warm-up"}
    )
    freeze_prototypes_epochs: int = field(
        default=1, metadata={"help": "epochs in which the last layer of the head is frozen"}
    )

    def __post_init__(self):
        if self.fsdp or self.deepspeed:
            raise ValueError(
                "DINO averages whole weights, which --fsdp and --deepspeed shard: leave them out to train with "
                "DistributedDataParallel"
            )
        if self.lr_scheduler_type == "cosine_with_min_lr" and self.lr_scheduler_kwargs is None:
            self.lr_scheduler_kwargs = {"min_lr": MIN_LEARNING_RATE}
        super().__post_init__()
        if not 0 <= self.teacher_momentum <= 1:
            raise ValueError(f"--teacher_momentum must be from 0 to 1, got {self.teacher_momentum}")
        if self.initial_teacher_temperature <= 0:
            raise ValueError(f"--initial_teacher_temperature must be above 0, got {self.initial_teacher_temperature}")


def cosine_schedule(start: float, end: float, step: int, total_steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at `total_steps` (Loshchilov and Hutter, arXiv 1608.03983)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / total_steps)) / 2


def epoch_warm_up(start: float, end: float, epoch: int, epochs: int) -> float:
    """Linear from `start` in epoch 0 to `end` in the last of `epochs`, then constant."""
    if epochs == 1 and epoch == 0:
        return start
    if epoch >= epochs - 1:
        return end
    return start + (end - start) * epoch / (epochs - 1)


class DINOTrainer(SuiteTrainer):
    """Trainer of `SuiteDINOForPreTraining`."""

    args: DINOTrainingArguments

    def __init__(self, model: PreTrainedModel, args: DINOTrainingArguments, **kwargs):
        if model.config.head_batch_norm and args.world_size > 1 and args.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        super().__init__(model=model, args=args, **kwargs)
        self.refuse_data_parallel()
        for callback in (PrototypeFreezing(self), WeightDecaySchedule(self), TeacherUpdate(self)):
            self.add_callback(callback)

    @property
    def epoch(self) -> int:
        """Epoch of the next step, from 0."""
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
        """A cosine over the whole run, at the current step."""
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
        """Clips each weight's gradient on its own; returns the norm of all before clipping."""
        self.accelerator.unscale_gradients(self.optimizer)
        weights = [weight for weight in model.parameters() if weight.grad is not None]
        norms = [clip_grad_norm_([weight], self.args.max_grad_norm) for weight in weights]
        return torch.linalg.vector_norm(torch.stack(norms))


class DINOCallback(TrainerCallback):
    """Base of the callbacks around a step.

    Args:
        trainer: The Trainer that takes the step.
    """

    def __init__(self, trainer: DINOTrainer):
        self.trainer = trainer


class PrototypeFreezing(DINOCallback):
    """Freezes the last layer of the student's head in the first epochs, which stabilises the start."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.trainer.epoch < args.freeze_prototypes_epochs:
            for weight in self.trainer.model.student_head.prototypes.parameters():
                weight.grad = None


class WeightDecaySchedule(DINOCallback):
    """Schedules the weight decay of the first parameter group, the one that decays."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer, **kwargs
    ) -> None:
        optimizer.param_groups[0]["weight_decay"] = self.trainer.scheduled(args.weight_decay, args.final_weight_decay)


class TeacherUpdate(DINOCallback):
    """Updates teacher and centre after each step of the optimiser.

    A step that the gradient scaler of float16 skipped changes neither, as its features may be infinite.
    """

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        if self.trainer.accelerator.optimizer_step_was_skipped:
            self.trainer.model.forget_step()
            return
        self.trainer.model.update_teacher(self.trainer.scheduled(args.teacher_momentum, 1.0))


class NeighbourAccuracy(TrainerCallback):
    """Logs the k-NN accuracy of the features on validation images, before training and every few steps.

    Args:
        trainer: Trains the encoder; the main process measures it.
        images: Labelled images; at most 20,000 training images vote on at most 2,000 validation images.
        knn_steps: Steps between two measurements.
    """

    def __init__(self, trainer: Trainer, images: LabelledImages, knn_steps: int):
        self.trainer = trainer
        self.voters, self.queries = (
            split.shuffle(seed=0).select(range(min(most, len(split))))
            for split, most in ((images.splits["train"], MOST_VOTERS), (images.splits["validation"], MOST_QUERIES))
        )
        self.num_labels = len(images.label_names)
        self.knn_steps = knn_steps
        self.strict_images = images.strict_images

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step == 0:
            self.measure(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step % self.knn_steps == 0:
            should_log = control.should_log
            self.measure(state)
            control.should_log = should_log  # this log does not replace the step's own

    def measure(self, state: TrainerState) -> None:
        """Adds `knn_accuracy` to the log."""
        if not state.is_world_process_zero:
            return
        model = self.trainer.model.base_model
        was_training = model.training
        encoder = FeatureExtractor(model.eval(), self.trainer.processing_class)
        features = [
            extract_features(encoder, split, strict=self.strict_images) for split in (self.voters, self.queries)
        ]
        model.train(was_training)
        (accuracies,) = knn_report(*features, self.num_labels, (NEIGHBOURS,)).values()
        self.trainer.log({"knn_accuracy": accuracies["accuracy"]})


def job_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from the data."""
    defaults = digits_defaults(given, DIGITS_DEFAULTS)
    if given["streaming"]:
        defaults.pop("knn_steps", None)  # it reads the same images repeatedly
    return defaults


class DINOData(NamedTuple):
    """The data of a run.

    Args:
        training: The training images.
        labelled: The same images with their labels, for `--knn_steps`; training never sees the labels.
    """

    training: UnlabelledImages
    labelled: LabelledImages | None


def load_data(arguments: RunArguments) -> DINOData:
    """The training images, and with `--knn_steps` their labels.

    Raises:
        ValueError: If labels are needed and there are none, or the data are streamed.
    """
    data, method = arguments.data, arguments.method
    training = data.load()
    if not method.knn_steps:
        return DINOData(training, None)
    if data.streaming:
        raise ValueError("--knn_steps reads the same images again and again, which --streaming can't: leave one out")
    try:
        labelled = load_image_dataset(data.dataset, label_column=method.label_column, **data.source_options())
    except ValueError as error:
        raise ValueError(f"--knn_steps needs labels: {error}") from error
    return DINOData(training, labelled)


def build_model(arguments: DINOModelArguments, data: DINOData) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """Student, teacher and heads."""
    return build_pretraining_model(arguments, SuiteDINOConfig, DEFAULT_PRESET, {"drop_path_rate": 0.1})


def augmentation(run: Run) -> MultiCropTransform:
    """Several crops of each image.

    Raises:
        ValueError: If the crops don't suit the model.
    """
    method, config = run.arguments.method, run.model.config
    return multi_crop_transform(
        run.processor,
        local_size(method, input_size(run.processor), config.patch_size),
        method.local_crops,
        local_scale=method.local_crop_scale,
        global_scale=method.global_crop_scale,
        horizontal_flip=method.horizontal_flip,
        patch_size=config.patch_size if config.patch_loss_weight else None,
    )


def local_size(method: DINOMethodArguments, global_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Height and width of the local crops in pixels.

    Raises:
        ValueError: If a side is no multiple of the patch size.
    """
    given = method.local_image_size
    if given is None:
        given = round_to_multiple(LOCAL_SIDE * min(global_size), patch_size)
    height, width = height_and_width(given)
    if height % patch_size or width % patch_size:
        got = f"{height} x {width}" if height != width else height
        raise ValueError(f"--local_image_size must be a multiple of patch_size {patch_size}, got {got}")
    return height, width


def callbacks(run: Run) -> list[TrainerCallback]:
    """k-NN accuracy, if it is on."""
    labelled, steps = run.data.labelled, run.arguments.method.knn_steps
    return [NeighbourAccuracy(run.trainer, labelled, steps)] if labelled is not None else []


def first_images(run: Run) -> Tensor:
    """The first images, not augmented, `[images, channels, height, width]`."""
    transform = ImageTransform(evaluation_transform(run.processor))
    rows = islice(apply_transform(run.data.training.rows, transform, name="train"), FIGURE_IMAGES)
    return torch.stack([row["pixel_values"] for row in rows])


def attention_of_teacher(run: Run) -> Figure:
    """The last layer's attention of the teacher on the first images."""
    model = run.trainer.model.base_model.eval()
    pixel_values = first_images(run).to(model.device)
    maps = class_token_attention(model, pixel_values)
    return attention_figure(pixel_values, maps, run.processor, ["image"] * len(pixel_values))


def figures(run: Run) -> dict[str, Callable[[], Figure]]:
    """Curves, and the teacher's attention."""
    return {
        "curves.png": partial(pretraining_curves, run.trainer.state.log_history),
        "attention.png": partial(attention_of_teacher, run),
    }


def reload_check(run: Run) -> ReloadCheck:
    """The teacher's tokens of the first images."""
    pixel_values = first_images(run)
    return ReloadCheck(AutoModel, lambda model: model.base_model(pixel_values.to(model.device)).last_hidden_state)


DINO = Recipe(
    name="pretrain dino",
    description="Pretrains by self-distillation without labels and leaves a folder that AutoModel opens.",
    kinds=(DINOModelArguments, UnlabelledDataArguments, DINOMethodArguments, DINOTrainingArguments),
    job_defaults=job_defaults,
    load_data=load_data,
    build_model=build_model,
    training_split=lambda data: data.training.rows,
    transform=augmentation,
    collate=lambda run: default_collate,
    trainer_class=DINOTrainer,
    callbacks=callbacks,
    report=lambda run: pretraining_report(run.trainer, run.data.training),
    figures=figures,
    card=pretraining_card,
    reload_check=reload_check,
    summary=pretraining_summary,
)
