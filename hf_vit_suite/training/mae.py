"""Pretraining a masked autoencoder (He et al. 2021, arXiv 2111.06377): data, model, Trainer, a folder for AutoModel.

`pretrain_mae` reads as its stages. The objective is in `models/modeling_mae.py`; what Trainer does is transformers'.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import default_collate
from transformers import AutoModelForPreTraining, PreTrainedModel, ViTImageProcessor, set_seed

from ..data import (
    MaskedImageTransform,
    UnlabelledImages,
    apply_transform,
    evaluation_transform,
    training_transform,
)
from ..explain import reconstruction_figure
from ..models.configuration_mae import SuiteMAEConfig
from .calls import command_line, python_call
from .checkpoints import prepare_output_dir, train
from .command import parse
from .pretraining import (
    PretrainingArguments,
    PretrainingModelArguments,
    UnlabelledDataArguments,
    build_pretraining_model,
    defaults_of_digits,
    load_pretraining_images,
    pretraining_report,
    pretraining_summary,
    save_pretrained_results,
)
from .previews import ReconstructionPreview
from .results import check_reload
from .trainer import SuiteTrainer, training_rows

DEFAULT_PRESET = "mae_vit_base"
PREVIEW_IMAGES = 4


@dataclass
class MAEModelArguments(PretrainingModelArguments):
    """Which masked autoencoder."""

    mask_ratio: float | None = field(
        default=None, metadata={"help": "Share of the patches that are masked; default the model's own, 0.75."}
    )
    norm_pix_loss: bool | None = field(
        default=None,
        metadata={"help": "Predict each patch's normalised pixels; default true, and with --model the model's own."},
    )


@dataclass
class MAERecipeArguments:
    """Augmentation and pictures."""

    crop_scale: float = field(default=0.2, metadata={"help": "Smallest share of the image that a crop keeps."})
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    preview_steps: int = field(
        default=1000, metadata={"help": "Steps between two pictures of image, mask and reconstruction; 0 is none."}
    )


@dataclass
class MAETrainingArguments(PretrainingArguments):
    """TrainingArguments with the paper's recipe (appendix A.1, table 8): 800 epochs of which 40 warm up."""

    output_dir: str | None = field(default="outputs/mae", metadata={"help": "Folder of the trained model."})
    num_train_epochs: float = field(default=800.0, metadata={"help": "Passes over the images."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Second beta of AdamW."})


# What suits the data set that comes with the package; each value only where the user gives none.
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


def job_defaults(given: argparse.Namespace) -> dict:
    """Defaults that follow from the data; the command line wins over them."""
    return defaults_of_digits(given, DIGITS_DEFAULTS)


def run(arguments: Sequence[str]) -> None:
    """`hf-vit-suite pretrain mae`."""
    parsed = parse(
        arguments,
        "pretrain mae",
        "Pretrains a masked autoencoder without labels and leaves a folder that AutoModel opens.",
        (MAEModelArguments, UnlabelledDataArguments, MAERecipeArguments, MAETrainingArguments),
        job_defaults,
    )
    report = pretrain_mae(*parsed, command=command_line("pretrain mae", arguments, parsed[-1].hub_token))
    print(pretraining_summary(report))


def pretrain_mae(
    model_arguments: MAEModelArguments,
    data_arguments: UnlabelledDataArguments,
    recipe: MAERecipeArguments,
    training_arguments: MAETrainingArguments,
    command: str | None = None,
) -> dict:
    """Pretrains a masked autoencoder and leaves a model folder at `training_arguments.output_dir`.

    The folder holds weights, config, image processor and code, metrics.json, curves.png, reconstruction.png, pictures
    by step in `previews/` and a model card README.md, beside Trainer's checkpoints.

    Args:
        model_arguments: Which model.
        data_arguments: Which data.
        recipe: How it learns.
        training_arguments: Trainer's own.
        command: The command line that the run came from, for the model card; default the call from Python.

    Returns:
        What metrics.json holds: loss, images, steps, parameters, seconds of training.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    command = command or python_call("pretrain_mae", model_arguments, data_arguments, recipe, training_arguments)
    training_arguments.keep_token_out_of_files()
    resume_from = prepare_output_dir(training_arguments)
    set_seed(training_arguments.seed)
    with training_arguments.main_process_first(desc="loading data"):
        data = load_pretraining_images(data_arguments)
    model, processor = build_pretraining_model(
        model_arguments, SuiteMAEConfig, DEFAULT_PRESET, {"norm_pix_loss": True}
    )
    trainer = build_trainer(model, processor, data, recipe, training_arguments)
    shown, noise = preview_batch(data, processor, model.config.patch_size)
    if recipe.preview_steps:
        trainer.add_callback(ReconstructionPreview(trainer, shown, noise, recipe.preview_steps))

    seconds = train(trainer, resume_from)

    report = pretraining_report(trainer, data, seconds)
    if trainer.is_world_process_zero():
        model = trainer.model.eval()
        figure = partial(reconstruction_figure, model, shown.to(model.device), noise.to(model.device), processor)
        save_pretrained_results(trainer, report, {"reconstruction.png": figure}, data_arguments.dataset, command)
        check_reload(
            trainer,
            report,
            AutoModelForPreTraining,
            lambda model: model(shown.to(model.device), noise=noise.to(model.device)).logits,
        )
    if training_arguments.push_to_hub:
        trainer.push_to_hub()
    return report


def build_trainer(
    model: PreTrainedModel,
    processor: ViTImageProcessor,
    data: UnlabelledImages,
    recipe: MAERecipeArguments,
    arguments: MAETrainingArguments,
) -> SuiteTrainer:
    """The Trainer with randomly cropped, mirrored and masked images."""
    augment = training_transform(
        processor, crop_scale=(recipe.crop_scale, 1.0), horizontal_flip=recipe.horizontal_flip
    )
    transform = MaskedImageTransform(augment, model.config.patch_size)
    return SuiteTrainer(
        model=model,
        args=arguments,
        data_collator=default_collate,
        train_dataset=training_rows(data.rows, transform, arguments),
        processing_class=processor,
    )


def preview_batch(data: UnlabelledImages, processor: ViTImageProcessor, patch_size: int) -> tuple[Tensor, Tensor]:
    """The first images, not augmented, `[images, channels, height, width]`, and the noise of their masks."""
    transform = MaskedImageTransform(evaluation_transform(processor), patch_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = default_collate(list(islice(apply_transform(data.rows, transform), PREVIEW_IMAGES)))
    return rows["pixel_values"], rows["noise"]
