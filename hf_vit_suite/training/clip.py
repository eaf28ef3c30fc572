"""Pretraining CLIP (Radford et al. 2021, arXiv 2103.00020): pairs, two towers, Trainer, a folder for AutoModel.

`pretrain_clip` reads as its stages. The objective is in `models/modeling_clip.py` and `models/contrastive.py`.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from datasets import IterableDataset
from torch import Tensor
from transformers import AutoModel, CLIPProcessor, PreTrainedModel, set_seed

from ..data import (
    CaptionCollator,
    CaptionedImages,
    CaptionedImageTransform,
    apply_transform,
    captions_of_labels,
    count_cut_captions,
    evaluation_transform,
    load_captioned_images,
    load_image_dataset,
    training_transform,
)
from ..evaluation.zero_shot import label_names, prompt_templates
from ..hub import TWO_TOWERS
from .calls import command_line, python_call
from .checkpoints import prepare_output_dir, train
from .command import parse
from .contrastive import CLIPTrainer, CLIPTrainingArguments
from .pretraining import defaults_of_digits, pretraining_report, pretraining_summary, save_pretrained_results
from .results import check_reload
from .towers import CLIPModelArguments, build_towers
from .trainer import training_rows

logger = logging.getLogger(__name__)

CHECKED_PAIRS = 4


@dataclass
class CaptionDataArguments:
    """Which images and captions."""

    dataset: str = field(
        default="digits",
        metadata={
            "help": "A folder of images with metadata.csv (columns file_name and text), a parquet or webdataset path "
            "or the name of a Hub data set; where it has a train split that alone is read. With --caption_templates "
            "any images with labels, as for finetune."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images; default found by type."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the captions, one or a list each; default found by its name."}
    )
    caption_templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "Make captions of the labels' names: texts in which {} is the name, one drawn each time, or "
            "imagenet for the CLIP paper's 80."
        },
    )
    labels: str | None = field(
        default=None, metadata={"help": "Names of the labels in order, with commas between; default the data's own."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read the data while training; needs --max_steps."})
    strict_images: bool = field(
        default=False,
        metadata={"help": "Stop at unreadable images and missing captions instead of skipping them."},
    )


@dataclass
class CLIPRecipeArguments:
    """Augmentation; the paper crops randomly and does no more."""

    crop_scale: float = field(default=0.9, metadata={"help": "Smallest share of the image that a crop keeps."})
    horizontal_flip: float = field(
        default=0.0, metadata={"help": "Probability of a horizontal flip; captions may tell left from right."}
    )


# What suits the data set that comes with the package; each value only where the user gives none.
DIGITS_DEFAULTS = {
    "config_overrides": "vision_config.image_size=32,vision_config.patch_size=8,vision_config.hidden_size=128,"
    "vision_config.num_hidden_layers=4,vision_config.num_attention_heads=4,vision_config.intermediate_size=512,"
    "text_config.hidden_size=64,text_config.num_hidden_layers=2,text_config.num_attention_heads=2,"
    "text_config.intermediate_size=256,text_config.max_position_embeddings=16,projection_dim=64",
    "caption_templates": ["a photo of a {}.", "the digit {}."],
    "train_tokenizer": True,
    "crop_scale": 0.6,
    "num_train_epochs": 40.0,
    "learning_rate": 1e-3,
}


def job_defaults(given: argparse.Namespace) -> dict:
    """Defaults that follow from the data; the command line wins over them."""
    defaults = defaults_of_digits(given, DIGITS_DEFAULTS)
    if given.model is not None or given.tokenizer is not None:
        defaults.pop("train_tokenizer", None)
    return defaults


def run(arguments: Sequence[str]) -> None:
    """`hf-vit-suite pretrain clip`."""
    parsed = parse(
        arguments,
        "pretrain clip",
        "Trains an image tower and a text tower on images with captions and leaves a folder that AutoModel opens.",
        (CLIPModelArguments, CaptionDataArguments, CLIPRecipeArguments, CLIPTrainingArguments),
        job_defaults,
    )
    report = pretrain_clip(*parsed, command=command_line("pretrain clip", arguments, parsed[-1].hub_token))
    print(pretraining_summary(report))


def pretrain_clip(
    model_arguments: CLIPModelArguments,
    data_arguments: CaptionDataArguments,
    recipe: CLIPRecipeArguments,
    training_arguments: CLIPTrainingArguments,
    command: str | None = None,
) -> dict:
    """Trains CLIP and leaves a model folder at `training_arguments.output_dir`.

    The folder holds weights, config, image processor, tokenizer and code, metrics.json, curves.png and a model card
    README.md, beside Trainer's checkpoints.

    Args:
        model_arguments: Which model.
        data_arguments: Which data.
        recipe: How it learns.
        training_arguments: Trainer's own.
        command: The command line that the run came from, for the model card; default the call from Python.

    Returns:
        What metrics.json holds: metrics, images, captions that were cut, steps, parameters, seconds of training.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    command = command or python_call("pretrain_clip", model_arguments, data_arguments, recipe, training_arguments)
    training_arguments.keep_token_out_of_files()
    resume_from = prepare_output_dir(training_arguments)
    set_seed(training_arguments.seed)
    with training_arguments.main_process_first(desc="loading data"):
        data = load_pairs(data_arguments, training_arguments.seed)
    check_batch(data, training_arguments)
    model, processor = build_towers(model_arguments, data)
    cut = notice_long_captions(data, model, processor)
    trainer = build_trainer(model, processor, data, recipe, training_arguments)

    seconds = train(trainer, resume_from)

    report = pretraining_report(trainer, data, seconds) | {"cut_captions": cut}
    if trainer.is_world_process_zero():
        shown = first_pairs(data, model, processor)
        save_pretrained_results(trainer, report, {}, data_arguments.dataset, command, TWO_TOWERS)
        check_reload(
            trainer,
            report,
            AutoModel,
            lambda model: model(**{name: value.to(model.device) for name, value in shown.items()}).logits_per_image,
        )
    if training_arguments.push_to_hub:
        trainer.push_to_hub()
    return report


def load_pairs(arguments: CaptionDataArguments, seed: int) -> CaptionedImages:
    """The images and captions that the arguments name.

    Raises:
        ValueError: As `load_captioned_images` and `load_image_dataset`, or if the arguments don't fit together.
    """
    shared = {
        "image_column": arguments.image_column,
        "streaming": arguments.streaming,
        "strict_images": arguments.strict_images,
    }
    if arguments.caption_templates is None:
        if arguments.labels is not None:
            raise ValueError("--labels names what --caption_templates makes captions of: give both")
        # A row a caption trains as a pair a row, so that an epoch sees every caption. Two rows of a batch that show
        # one image are then contrasted with each other, which CLIP's loss always risks.
        return load_captioned_images(
            arguments.dataset, text_column=arguments.text_column, one_row_an_image=False, **shared
        )
    if arguments.streaming or arguments.text_column is not None:
        raise ValueError("--caption_templates makes captions of labels: leave --streaming and --text_column out")
    data = load_image_dataset(arguments.dataset, seed=seed, **shared)
    names = label_names(arguments.labels, data.label_names)
    return captions_of_labels(data, "train", names, prompt_templates(arguments.caption_templates))


def check_batch(data: CaptionedImages, arguments: CLIPTrainingArguments) -> None:
    """Refuses a batch that the data can't fill."""
    if isinstance(data.rows, IterableDataset) or not arguments.dataloader_drop_last:
        return
    if len(data.rows) < arguments.pairs_compared:
        raise ValueError(
            f"a step takes {arguments.pairs_compared} pairs and the data has {len(data.rows)}: give a smaller "
            "--per_device_train_batch_size, or --dataloader_drop_last False"
        )


def notice_long_captions(data: CaptionedImages, model: PreTrainedModel, processor: CLIPProcessor) -> int | None:
    """Warns of captions that the model reads a part of only, and counts them; `None` for streams."""
    if isinstance(data.rows, IterableDataset):
        return None
    most_tokens = model.config.text_config.max_position_embeddings
    cut = count_cut_captions(data.rows, processor.tokenizer, most_tokens)
    if cut:
        logger.warning("%d captions have more than %d tokens: the rest of them is cut off", cut, most_tokens)
    return cut


def build_trainer(
    model: PreTrainedModel,
    processor: CLIPProcessor,
    data: CaptionedImages,
    recipe: CLIPRecipeArguments,
    arguments: CLIPTrainingArguments,
) -> CLIPTrainer:
    """The Trainer with randomly cropped images and one of each image's captions."""
    augment = training_transform(
        processor.image_processor, crop_scale=(recipe.crop_scale, 1.0), horizontal_flip=recipe.horizontal_flip
    )
    text_config = model.config.text_config
    transform = CaptionedImageTransform(augment, processor.tokenizer, text_config.max_position_embeddings)
    return CLIPTrainer(
        model=model,
        args=arguments,
        data_collator=CaptionCollator(text_config.pad_token_id),
        train_dataset=training_rows(data.rows, transform, arguments),
        processing_class=processor,
    )


def first_pairs(data: CaptionedImages, model: PreTrainedModel, processor: CLIPProcessor) -> dict[str, Tensor]:
    """The first pairs, not augmented, as the model's arguments."""
    text_config = model.config.text_config
    transform = CaptionedImageTransform(
        evaluation_transform(processor.image_processor), processor.tokenizer, text_config.max_position_embeddings
    )
    with torch.random.fork_rng(devices=[]):
        rows = list(islice(apply_transform(data.rows, transform), CHECKED_PAIRS))
    return CaptionCollator(text_config.pad_token_id)(rows)
