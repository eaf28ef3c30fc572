"""Arguments that recipes share: data, model, and transformers' own TrainingArguments with our defaults."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from transformers import TrainingArguments

from ..config_overrides import parse_image_size
from ..data import SourceArguments, UnlabelledImages, load_unlabelled_images

REFERENCE_BATCH = 256


def default_report_to() -> str:
    """TensorBoard if it is installed."""
    return "tensorboard" if importlib.util.find_spec("tensorboard") else "none"


@dataclass
class SuiteTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of every recipe."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "train into a folder that holds a model and replace its files"}
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "training images per device per step"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning rate schedule"})
    warmup_steps: float = field(default=0.05, metadata={"help": "steps of linear warm-up; below 1 a fraction of all"})
    weight_decay: float = field(
        default=0.05,
        metadata={
            "help": "weight decay of matrices and, in pretraining, of tokens and positions; none for norms and biases"
        },
    )
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint: no, steps or epoch"})
    save_total_limit: int | None = field(default=2, metadata={"help": "number of checkpoints that are kept"})
    logging_steps: float = field(default=20, metadata={"help": "steps between two entries of the training log"})
    hub_strategy: str = field(
        default="end", metadata={"help": "when to push; pushes before the end hold no code and no model card"}
    )
    report_to: str | None = field(
        default_factory=default_report_to, metadata={"help": "where logs go: tensorboard, wandb, none, ..."}
    )
    dataloader_num_workers: int = field(
        default_factory=lambda: 4 if torch.cuda.is_available() else 0,
        metadata={"help": "processes that decode images; default 4 with a GPU, else 0"},
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "pin batches in memory; default with a GPU"}
    )
    dataloader_persistent_workers: bool | None = field(
        default=None, metadata={"help": "keep these processes from epoch to epoch; default where there are any"}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "must stay False: images become pixel_values when they are read"}
    )

    def __post_init__(self):
        if self.dataloader_persistent_workers is None:
            self.dataloader_persistent_workers = self.dataloader_num_workers > 0
        super().__post_init__()

    @property
    def total_batch_size(self) -> int:
        """Images per step over devices, processes and accumulated batches."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps


# transformers' parser of flags takes the second type of a union: text.
Size: TypeAlias = int | str | list[int] | tuple[int, int]
SIZE_OPTION = {"metavar": "SIZE"}


@dataclass
class ImageSizeArguments:
    """The size of the input, an option of every recipe."""

    image_size: Size | None = field(
        default=None,
        metadata=SIZE_OPTION
        | {"help": "input size in pixels, a side or HEIGHTxWIDTH such as 192x256; default the model's own"},
    )

    def __post_init__(self):
        if self.image_size is not None:
            self.image_size = parse_image_size(self.image_size)


@dataclass
class PretrainingModelArguments(ImageSizeArguments):
    """Model options; a recipe adds fields of its family's config, whose default None is the config's own value."""

    preset: str | None = field(
        default=None, metadata={"help": "architecture to train from scratch; default the method's ViT-B/16"}
    )
    model: str | None = field(
        default=None, metadata={"help": "pretrained folder or Hub name to continue from, in place of a preset"}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "changes to the preset, e.g. num_hidden_layers=6,patch_size=8"}
    )


@dataclass
class UnlabelledDataArguments(SourceArguments):
    """Data options of pretraining on images alone."""

    dataset: str = field(
        default="digits",
        metadata={
            "help": "digits, a folder of images or of MNIST's IDX files, a parquet or webdataset path, or a Hub "
            "data set; of several splits train alone is read"
        },
    )
    streaming: bool = field(default=False, metadata={"help": "read the data while training; needs --max_steps"})

    def load(self) -> UnlabelledImages:
        """The training images.

        Raises:
            ValueError: As `load_unlabelled_images`.
        """
        return load_unlabelled_images(self.dataset, streaming=self.streaming, **self.source_options())


@dataclass
class PretrainingArguments(SuiteTrainingArguments):
    """TrainingArguments whose learning rate follows from the total batch size."""

    learning_rate: float | None = field(
        default=None, metadata={"help": "peak learning rate; default base_learning_rate x total batch / 256"}
    )
    base_learning_rate: float = field(
        default=1.5e-4, metadata={"help": "peak learning rate of a total batch of 256 images"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.base_learning_rate * self.total_batch_size / REFERENCE_BATCH


def digits_defaults(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's defaults for the digits if those are the data; its config overrides only if no model is named."""
    if not isinstance(given["dataset"], str) or given["dataset"] != "digits":
        return {}
    is_named = given["model"] is not None or given["preset"] is not None
    return {name: value for name, value in defaults.items() if not (is_named and name == "config_overrides")}
