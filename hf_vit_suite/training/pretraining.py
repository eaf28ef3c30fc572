"""What the pretraining recipes share: their data's and Trainer's arguments, and what a finished run leaves."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from datasets import IterableDataset
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForPreTraining,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from ..argument_types import parse_overrides
from ..data import CaptionedImages, UnlabelledImages, load_unlabelled_images
from ..hub import ENCODER, Pretrained, PretrainedFacts, pretrained_card
from ..models.configuration_trunk import TrunkConfig
from ..models.presets import list_presets, preset_config
from ..opening import open_pretrained
from .arguments import SuiteTrainingArguments
from .building import set_input_size
from .figures import PRETRAINING_CURVES, pretraining_curves
from .results import training_sentence, write_model_folder
from .trainer import SuiteTrainer

REFERENCE_BATCH = 256


@dataclass
class PretrainingModelArguments:
    """Which model; a recipe adds the fields of its family's config, whose default None is the config's own value."""

    preset: str | None = field(
        default=None, metadata={"help": "Architecture to train from scratch; default the ViT-B/16 of the method."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Pretrained folder or Hub name to go on with, in place of a preset."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Changes to the preset, e.g. num_hidden_layers=6,patch_size=8."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the square input in pixels; default the model's own."}
    )


@dataclass
class UnlabelledDataArguments:
    """Which images; labels are not needed."""

    dataset: str = field(
        default="digits",
        metadata={
            "help": "digits, a folder of images or of MNIST's IDX files, a parquet or webdataset path, or the name of "
            "a Hub data set; where it has a train split that alone is read."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images; default found by type."})
    streaming: bool = field(default=False, metadata={"help": "Read the data while training; needs --max_steps."})
    strict_images: bool = field(
        default=False, metadata={"help": "Stop at unreadable images instead of skipping them."}
    )


@dataclass
class PretrainingArguments(SuiteTrainingArguments):
    """TrainingArguments whose learning rate follows from the total batch."""

    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; default base_learning_rate x total batch / 256."}
    )
    base_learning_rate: float = field(
        default=1.5e-4, metadata={"help": "Peak learning rate of a total batch of 256 images."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.base_learning_rate * self.total_batch_size / REFERENCE_BATCH


def defaults_of_digits(given: argparse.Namespace, defaults: dict) -> dict:
    """A recipe's defaults for the digits where those are the data; those for the network only where none is named."""
    if given.dataset != "digits":
        return {}
    named = given.model is not None or given.preset is not None
    return {name: value for name, value in defaults.items() if not (named and name == "config_overrides")}


def load_pretraining_images(arguments: UnlabelledDataArguments) -> UnlabelledImages:
    """The images that the arguments name.

    Raises:
        ValueError: As `load_unlabelled_images`.
    """
    return load_unlabelled_images(
        arguments.dataset,
        image_column=arguments.image_column,
        streaming=arguments.streaming,
        strict_images=arguments.strict_images,
    )


def build_pretraining_model(
    arguments: PretrainingModelArguments, config_class: type[TrunkConfig], default_preset: str, from_scratch: dict
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """The model to train, from a preset or a checkpoint, and its image processor.

    Args:
        arguments: Of a recipe; the fields that it adds change the config.
        config_class: Of the family.
        default_preset: Of the family.
        from_scratch: Config fields of a new model, which the arguments win over.

    Raises:
        ValueError: If the arguments don't fit together, or the preset or the checkpoint is of another family.
    """
    shared = PretrainingModelArguments.__dataclass_fields__
    changes = {name: value for name, value in vars(arguments).items() if name not in shared and value is not None}
    if arguments.model is not None:
        if arguments.preset is not None or arguments.config_overrides is not None:
            raise ValueError("--preset and --config_overrides are for training from scratch: --model has its own")
        return pretraining_checkpoint(arguments, config_class, changes)
    fields = {**from_scratch, **parse_overrides(arguments.config_overrides), **changes}
    if arguments.image_size is not None:
        fields["image_size"] = arguments.image_size
    preset = arguments.preset or default_preset
    if type(preset_config(preset)) is not config_class:
        fitting = [name for name in list_presets() if type(preset_config(name)) is config_class]
        raise ValueError(f"--preset {preset} is no {config_class.model_type}: choose {', '.join(fitting)}")
    config = preset_config(preset, **fields)
    height, width = config.image_height_width
    processor = ViTImageProcessor(
        size={"height": height, "width": width},
        resample=PILImageResampling.BICUBIC,
        image_mean=IMAGENET_DEFAULT_MEAN,
        image_std=IMAGENET_DEFAULT_STD,
    )
    return AutoModelForPreTraining.from_config(config), processor


def pretraining_checkpoint(
    arguments: PretrainingModelArguments, config_class: type[TrunkConfig], changes: dict
) -> tuple[PreTrainedModel, ViTImageProcessor]:
    """A model that has been trained before."""
    config = open_pretrained(AutoConfig, arguments.model)
    if type(config) is not config_class:
        raise ValueError(f"--model {arguments.model} is no {config_class.model_type} but a {config.model_type}")
    config = config_class.from_dict(config.to_dict() | changes)
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    if arguments.image_size is not None:
        set_input_size(processor, arguments.image_size)
    return open_pretrained(AutoModelForPreTraining, arguments.model, config=config), processor


def pretraining_report(trainer: SuiteTrainer, data: UnlabelledImages | CaptionedImages, seconds: float) -> dict:
    """What metrics.json holds of a run; each metric is the last that was logged, or the mean loss where none was."""
    history = trainer.state.log_history
    metrics = {name: entry[name] for entry in history for name in PRETRAINING_CURVES if name in entry}
    steps = trainer.state.global_step
    return {
        "metrics": {"loss": history[-1]["train_loss"]} | metrics,
        "images": {"train": None if isinstance(data.rows, IterableDataset) else len(data.rows)},
        "skipped_images": data.skipped,
        "epochs": trainer.state.epoch,
        "steps": steps,
        "parameters": trainer.model.num_parameters(),
        "encoder_parameters": trainer.model.base_model.num_parameters(),
        "seconds_of_training": seconds,
    }


def pretraining_summary(report: dict) -> str:
    """What a command prints at its end."""
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in report["metrics"].items())
    return f"{metrics} after {report['steps']} steps on {report['images']['train']} images"


def save_pretrained_results(
    trainer: SuiteTrainer,
    report: dict,
    figures: Mapping[str, Callable[[], Figure]],
    dataset: str,
    command: str,
    kind: Pretrained = ENCODER,
) -> None:
    """Writes the model folder of a pretrained model.

    Args:
        trainer: After training.
        report: What metrics.json holds.
        figures: What draws each figure beside the curves, by file name.
        dataset: Name of the data.
        command: How the run was called.
        kind: What the model is for.
    """

    def card(drawn: Sequence[str]) -> ModelCard:
        return pretrained_card(card_facts(trainer, report, drawn, dataset, command, kind))

    curves = {"curves.png": partial(pretraining_curves, trainer.state.log_history)}
    write_model_folder(trainer, report, {**curves, **figures}, card)


def card_facts(
    trainer: SuiteTrainer, report: dict, figures: Sequence[str], dataset: str, command: str, kind: Pretrained
) -> PretrainedFacts:
    """The run's figures for the model card."""
    arguments = trainer.args
    millions = report["encoder_parameters"] / 1e6
    has_more = report["encoder_parameters"] < report["parameters"]
    return PretrainedFacts(
        name=arguments.hub_model_id or Path(arguments.output_dir).name,
        architecture=f"{type(trainer.model).__name__} ({'encoder of ' * has_more}{millions:.3g} M parameters)",
        dataset=dataset,
        images=report["images"]["train"],
        skipped=len(report["skipped_images"]),
        metrics=report["metrics"],
        figures=figures,
        command=command,
        training=training_sentence(trainer, report, arguments.total_batch_size),
        kind=kind,
    )
