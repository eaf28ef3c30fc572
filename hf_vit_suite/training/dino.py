"""Pretraining with DINO (Caron et al. 2021, arXiv 2104.14294): data, model, Trainer, a folder for AutoModel.

`pretrain_dino` reads as its stages. The objective is in `models/modeling_dino.py`, its Trainer in
`self_distillation.py`; the rest that Trainer does is transformers'.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import default_collate
from transformers import AutoModel, PreTrainedModel, ViTImageProcessor, set_seed

from ..data import (
    LabelledImages,
    UnlabelledImages,
    decode_image,
    evaluation_transform,
    load_image_dataset,
    multi_crop_transform,
)
from ..explain import attention_figure, class_token_attention
from ..models.configuration_dino import SuiteDINOConfig
from ..models.embedding import round_to_multiple
from .calls import command_line, python_call
from .checkpoints import prepare_output_dir, train
from .command import parse
from .monitoring import NeighbourAccuracy
from .pretraining import (
    PretrainingModelArguments,
    UnlabelledDataArguments,
    build_pretraining_model,
    defaults_of_digits,
    load_pretraining_images,
    pretraining_report,
    pretraining_summary,
    save_pretrained_results,
)
from .results import check_reload
from .self_distillation import DINOTrainer, DINOTrainingArguments
from .trainer import training_rows

DEFAULT_PRESET = "dino_vitb16"
FIGURE_IMAGES = 4
# Of the side of a global crop: 96 beside 224 pixels in the paper.
LOCAL_SIDE = 3 / 7


@dataclass
class DINOModelArguments(PretrainingModelArguments):
    """Which student and teacher, and which losses."""

    num_prototypes: int | None = field(
        default=None, metadata={"help": "Outputs of the head; default the model's own, 65536."}
    )
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "Stochastic depth of the student's last block; default 0.1."}
    )
    teacher_temperature: float | None = field(
        default=None, metadata={"help": "Teacher's temperature after its warm-up; default the model's own, 0.07."}
    )
    centering: str | None = field(
        default=None, metadata={"help": "center (the default) or, as in DINOv2, sinkhorn_knopp."}
    )
    koleo_weight: float | None = field(
        default=None, metadata={"help": "Weight of KoLeo, which spreads features; 0.1 in DINOv2, default off."}
    )
    patch_loss_weight: float | None = field(
        default=None, metadata={"help": "Weight of iBOT's masked patch loss; 1 in DINOv2, default off."}
    )


@dataclass
class DINORecipeArguments:
    """Crops and what is measured on the way."""

    local_crops: int = field(default=8, metadata={"help": "Local crops of an image; 0 is none."})
    local_image_size: int | None = field(
        default=None, metadata={"help": "Side of a local crop in pixels; default near 3/7 of a global one's."}
    )
    global_crop_scale: float = field(
        default=0.4, metadata={"help": "Smallest share of the image in a global crop, and largest in a local one."}
    )
    local_crop_scale: float = field(default=0.05, metadata={"help": "Smallest share of the image in a local crop."})
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    knn_steps: int = field(
        default=0,
        metadata={"help": "Steps between two k-NN accuracies of the features, for data with labels; 0 is none."},
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column of the labels for --knn_steps; default found by type."}
    )


# What suits the data set that comes with the package; each value only where the user gives none. On few and small
# images what DINOv2 adds learns in minutes, and a teacher that moves faster.
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


def job_defaults(given: argparse.Namespace) -> dict:
    """Defaults that follow from the data; the command line wins over them."""
    return defaults_of_digits(given, DIGITS_DEFAULTS)


def run(arguments: Sequence[str]) -> None:
    """`hf-vit-suite pretrain dino`."""
    parsed = parse(
        arguments,
        "pretrain dino",
        "Pretrains by self-distillation without labels and leaves a folder that AutoModel opens.",
        (DINOModelArguments, UnlabelledDataArguments, DINORecipeArguments, DINOTrainingArguments),
        job_defaults,
    )
    report = pretrain_dino(*parsed, command=command_line("pretrain dino", arguments, parsed[-1].hub_token))
    print(pretraining_summary(report))


def pretrain_dino(
    model_arguments: DINOModelArguments,
    data_arguments: UnlabelledDataArguments,
    recipe: DINORecipeArguments,
    training_arguments: DINOTrainingArguments,
    command: str | None = None,
) -> dict:
    """Pretrains with DINO and leaves a model folder at `training_arguments.output_dir`.

    The folder holds weights (teacher, student, heads, centre), config, image processor and code, metrics.json,
    curves.png, attention.png and a model card README.md, beside Trainer's checkpoints.

    Args:
        model_arguments: Which model.
        data_arguments: Which data.
        recipe: How it learns.
        training_arguments: Trainer's own.
        command: The command line that the run came from, for the model card; default the call from Python.

    Returns:
        What metrics.json holds: metrics, images, steps, parameters, seconds of training.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    command = command or python_call("pretrain_dino", model_arguments, data_arguments, recipe, training_arguments)
    training_arguments.keep_token_out_of_files()
    resume_from = prepare_output_dir(training_arguments)
    set_seed(training_arguments.seed)
    with training_arguments.main_process_first(desc="loading data"):
        data = load_pretraining_images(data_arguments)
        labelled = labelled_images(data_arguments, recipe) if recipe.knn_steps else None
    model, processor = build_pretraining_model(
        model_arguments, SuiteDINOConfig, DEFAULT_PRESET, {"drop_path_rate": 0.1}
    )
    trainer = build_trainer(model, processor, data, recipe, training_arguments)
    if labelled is not None:
        trainer.add_callback(NeighbourAccuracy(trainer, labelled, recipe.knn_steps))

    seconds = train(trainer, resume_from)

    report = pretraining_report(trainer, data, seconds)
    if trainer.is_world_process_zero():
        shown = first_images(data, processor)
        figure = partial(attention_of_teacher, trainer, shown)
        save_pretrained_results(trainer, report, {"attention.png": figure}, data_arguments.dataset, command)
        check_reload(
            trainer, report, AutoModel, lambda model: model.base_model(shown.to(model.device)).last_hidden_state
        )
    if training_arguments.push_to_hub:
        trainer.push_to_hub()
    return report


def labelled_images(arguments: UnlabelledDataArguments, recipe: DINORecipeArguments) -> LabelledImages:
    """The same images with their labels, which training never sees.

    Raises:
        ValueError: If there are none, or the data are streamed.
    """
    if arguments.streaming:
        raise ValueError("--knn_steps reads the same images again and again, which --streaming can't: leave one out")
    try:
        return load_image_dataset(
            arguments.dataset,
            image_column=arguments.image_column,
            label_column=recipe.label_column,
            strict_images=arguments.strict_images,
        )
    except ValueError as error:
        raise ValueError(f"--knn_steps needs labels: {error}") from error


def build_trainer(
    model: PreTrainedModel,
    processor: ViTImageProcessor,
    data: UnlabelledImages,
    recipe: DINORecipeArguments,
    arguments: DINOTrainingArguments,
) -> DINOTrainer:
    """The Trainer with several crops of each image.

    Raises:
        ValueError: If the crops don't suit the model.
    """
    config = model.config
    transform = multi_crop_transform(
        processor,
        local_side(recipe, config),
        recipe.local_crops,
        local_scale=recipe.local_crop_scale,
        global_scale=recipe.global_crop_scale,
        horizontal_flip=recipe.horizontal_flip,
        patch_size=config.patch_size if config.patch_loss_weight else None,
    )
    if config.head_batch_norm and arguments.world_size > 1 and arguments.device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DINOTrainer(
        model=model,
        args=arguments,
        data_collator=default_collate,
        train_dataset=training_rows(data.rows, transform, arguments),
        processing_class=processor,
    )


def local_side(recipe: DINORecipeArguments, config: SuiteDINOConfig) -> int:
    """Side of the local crops in pixels."""
    side = recipe.local_image_size
    if side is None:
        return round_to_multiple(LOCAL_SIDE * min(config.image_height_width), config.patch_size)
    if side < config.patch_size or side % config.patch_size:
        raise ValueError(f"--local_image_size must be a multiple of patch_size {config.patch_size}, got {side}")
    return side


def first_images(data: UnlabelledImages, processor: ViTImageProcessor) -> Tensor:
    """The first images, not augmented, `[images, channels, height, width]`."""
    rows = islice(data.rows, FIGURE_IMAGES)
    return torch.stack([evaluation_transform(processor)(decode_image(row["image"])) for row in rows])


def attention_of_teacher(trainer: DINOTrainer, pixel_values: Tensor) -> Figure:
    """The last layer's attention on images."""
    model = trainer.model.base_model.eval()
    pixel_values = pixel_values.to(model.device)
    titles = ["image"] * len(pixel_values)
    maps = class_token_attention(model, pixel_values)
    return attention_figure(pixel_values, maps, trainer.processing_class, titles)
