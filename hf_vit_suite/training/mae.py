"""Pretraining a masked autoencoder (He et al. 2021, arXiv 2111.06377): its arguments and its recipe.

The objective is in `models/modeling_mae.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import default_collate
from transformers import (
    AutoModelForPreTraining,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback

from ..data import (
    MaskedImageTransform,
    apply_transform,
    evaluation_transform,
    training_transform,
)
from ..explain import reconstruction_figure
from ..models.configuration_mae import SuiteMAEConfig
from ..output import write_figures
from .arguments import PretrainingArguments, PretrainingModelArguments, UnlabelledDataArguments, digits_defaults
from .building import build_pretraining_model
from .recipe import Recipe, ReloadCheck, Run
from .results import pretraining_card, pretraining_curves, pretraining_report, pretraining_summary

DEFAULT_PRESET = "mae_vit_base"
PREVIEW_IMAGES = 4


@dataclass
class MAEModelArguments(PretrainingModelArguments):
    """Model options of MAE."""

    mask_ratio: float | None = field(
        default=None, metadata={"help": "fraction of the patches that are masked; default the model's own, 0.75"}
    )
    norm_pix_loss: bool | None = field(
        default=None,
        metadata={"help": "predict normalised pixels of each patch; default true, with --model the model's own"},
    )


@dataclass
class MAEMethodArguments:
    """Augmentation and previews."""

    crop_scale: float = field(default=0.2, metadata={"help": "smallest fraction of the image that a crop keeps"})
    horizontal_flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    preview_steps: int = field(
        default=1000,
        metadata={"help": "steps between two figures of reconstructions; 0 is none"},
    )


@dataclass
class MAETrainingArguments(PretrainingArguments):
    """TrainingArguments with the paper's recipe (appendix A.1, table 8): 800 epochs of which 40 warm up."""

    output_dir: str | None = field(default="outputs/mae", metadata={"help": "folder of the trained model"})
    num_train_epochs: float = field(default=800.0, metadata={"help": "passes over the images"})
    adam_beta2: float = field(default=0.95, metadata={"help": "second beta of AdamW"})


# Defaults for the data set that comes with the package.
DIGITS_DEFAULTS = {
    "config_overrides": "image_size=32,patch_size=4,hidden_size=128,num_hidden_layers=4,num_attention_heads=4,"
    "intermediate_size=512,decoder_hidden_size=64,decoder_num_hidden_layers=2,decoder_num_attention_heads=4,"
    "decoder_intermediate_size=256",
    "horizontal_flip": 0.0,
    "crop_scale": 0.6,
    "num_train_epochs": 100.0,
    "base_learning_rate": 4e-3,
    "preview_steps": 500,
}


class ReconstructionPreview(TrainerCallback):
    """Draws the reconstruction of the same images every few steps, into `previews/` and TensorBoard.

    Args:
        trainer: Trains the model.
        pixel_values: `[images, channels, height, width]`, normalised.
        noise: `[images, patches]`, which determines the masks.
        preview_steps: Steps between two figures.
    """

    def __init__(self, trainer: Trainer, pixel_values: Tensor, noise: Tensor, preview_steps: int):
        self.trainer = trainer
        self.pixel_values = pixel_values
        self.noise = noise
        self.preview_steps = preview_steps

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if state.global_step % self.preview_steps or not state.is_world_process_zero:
            return
        folder, step = Path(args.output_dir, "previews"), state.global_step
        write_figures(folder, {f"step-{step:08d}.png": lambda: self.draw(step)}, dpi=100)

    def draw(self, step: int) -> Figure:
        """The figure of a step, which is also added to TensorBoard."""
        model = self.trainer.model.eval()
        try:
            device = model.device
            figure = reconstruction_figure(
                model, self.pixel_values.to(device), self.noise.to(device), self.trainer.processing_class
            )
        finally:
            model.train()
        if (writer := tensorboard_writer(self.trainer)) is not None:
            writer.add_figure("reconstruction", figure, step)
        return figure


def tensorboard_writer(trainer: Trainer):
    """The `SummaryWriter` of Trainer's log, or `None`."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback):
            return callback.tb_writer
    return None


def augmentation(run: Run) -> MaskedImageTransform:
    """Crops, mirrors and masks training images."""
    method = run.arguments.method
    augment = training_transform(
        run.processor, crop_scale=(method.crop_scale, 1.0), horizontal_flip=method.horizontal_flip
    )
    return MaskedImageTransform(augment, run.model.config.patch_size)


def preview_batch(run: Run) -> tuple[Tensor, Tensor]:
    """The first images, not augmented, `[images, channels, height, width]`, and the noise `[images, patches]`.

    Raises:
        ValueError: If no streamed image is readable.
    """
    transform = MaskedImageTransform(evaluation_transform(run.processor), run.model.config.patch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = list(islice(apply_transform(run.data.rows, transform, run.data.strict_images, "train"), PREVIEW_IMAGES))
    if not rows:
        raise ValueError("the streamed training data have no readable image: check --dataset")
    batch = default_collate(rows)
    return batch["pixel_values"], batch["noise"]


def callbacks(run: Run) -> list[TrainerCallback]:
    """Previews, if they are on."""
    steps = run.arguments.method.preview_steps
    return [ReconstructionPreview(run.trainer, *preview_batch(run), steps)] if steps else []


def figures(run: Run) -> dict[str, Callable[[], Figure]]:
    """Curves, and reconstructions of the first images."""
    model = run.trainer.model.eval()
    pixel_values, noise = (tensor.to(model.device) for tensor in preview_batch(run))
    return {
        "curves.png": partial(pretraining_curves, run.trainer.state.log_history),
        "reconstruction.png": partial(reconstruction_figure, model, pixel_values, noise, run.processor),
    }


def reload_check(run: Run) -> ReloadCheck:
    """Predicted pixels of the first images under the same masks."""
    pixel_values, noise = preview_batch(run)

    def predicted(model: PreTrainedModel) -> Tensor:
        return model(pixel_values.to(model.device), noise=noise.to(model.device)).logits

    return ReloadCheck(AutoModelForPreTraining, predicted)


MAE = Recipe(
    name="pretrain mae",
    description="Pretrains a masked autoencoder without labels and leaves a folder that AutoModel opens.",
    kinds=(MAEModelArguments, UnlabelledDataArguments, MAEMethodArguments, MAETrainingArguments),
    job_defaults=partial(digits_defaults, defaults=DIGITS_DEFAULTS),
    load_data=lambda arguments: arguments.data.load(),
    build_model=lambda arguments, data: build_pretraining_model(
        arguments, SuiteMAEConfig, DEFAULT_PRESET, {"norm_pix_loss": True}
    ),
    training_split=lambda data: data.rows,
    transform=augmentation,
    collate=lambda run: default_collate,
    callbacks=callbacks,
    report=lambda run: pretraining_report(run.trainer, run.data),
    figures=figures,
    card=pretraining_card,
    reload_check=reload_check,
    summary=pretraining_summary,
)
