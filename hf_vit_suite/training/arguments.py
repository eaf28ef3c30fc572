"""Arguments of fine-tuning: what model, what data, what recipe, and transformers' own TrainingArguments.

Defaults that depend on the job (from scratch or from a checkpoint, which data) stand in the tables at the end.
"""

import argparse
import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import AutoConfig, TrainingArguments

from ..opening import is_pretrained_encoder, open_pretrained
from .calls import recording_given


@dataclass
class ModelArguments:
    """Which model is trained, and which part of it."""

    preset: str | None = field(
        default=None, metadata={"help": "Architecture to train from scratch; `hf-vit-suite models` lists them."}
    )
    model: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a Hub name, ours or transformers'."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Changes to the preset, e.g. num_hidden_layers=6,patch_size=4."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of the square input in pixels; default the model's own."}
    )
    linear_probe: bool = field(default=False, metadata={"help": "Train the classification head alone."})
    lora: bool = field(default=False, metadata={"help": "Train LoRA adapters and the head, then merge them."})
    lora_rank: int = field(default=16, metadata={"help": "Rank of the LoRA adapters."})
    drop_path_rate: float | None = field(
        default=None, metadata={"help": "Stochastic depth of the last block; 0.1 in DeiT. Default the model's own."}
    )


@dataclass
class DataArguments:
    """Which images, and how they are split."""

    dataset: str = field(
        default="digits",
        metadata={"help": "digits, an image folder, a parquet or webdataset path, or the name of a Hub data set."},
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images; default found by type."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels; default found by type."})
    validation_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training images split off where there is no validation split."}
    )
    test_fraction: float = field(
        default=0.1, metadata={"help": "Share of the training images split off where there is no test split."}
    )
    streaming: bool = field(default=False, metadata={"help": "Read the data while training; needs --max_steps."})
    strict_images: bool = field(
        default=False, metadata={"help": "Stop at unreadable images instead of skipping them."}
    )


@dataclass
class RecipeArguments:
    """Augmentation, regularisation and distillation; 0 or nothing is off. DeiT's values stand in the help."""

    random_resized_crop: bool = field(default=True, metadata={"help": "Crop a random part and aspect."})
    crop_scale: float = field(default=0.08, metadata={"help": "Smallest share of the image that a crop keeps."})
    horizontal_flip: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    rand_augment: int = field(default=0, metadata={"help": "Magnitude of RandAugment, of 30; 9 in DeiT."})
    random_erasing: float = field(default=0.0, metadata={"help": "Probability of erasing a rectangle; 0.25 in DeiT."})
    mixup: float = field(default=0.0, metadata={"help": "Alpha of mixup; 0.8 in DeiT."})
    cutmix: float = field(default=0.0, metadata={"help": "Alpha of cutmix; 1.0 in DeiT."})
    layer_decay: float = field(
        default=1.0, metadata={"help": "Factor of the learning rate from each layer to the one before; 0.75 in BEiT."}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "Decay of a moving average of the weights, which is then kept; e.g. 0.9999."}
    )
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after so many evaluations without a better metric."}
    )
    teacher: str | None = field(
        default=None, metadata={"help": "Image-classification checkpoint to distil from, a folder or a Hub name."}
    )
    distillation: Literal["hard", "soft"] = field(default="hard", metadata={"help": "hard or soft, as in DeiT."})
    distillation_alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher's part of the loss."})
    distillation_temperature: float = field(
        default=3.0, metadata={"help": "Temperature of soft distillation; 3.0 in the DeiT paper."}
    )


def default_report_to() -> str:
    """TensorBoard where it is installed."""
    return "tensorboard" if importlib.util.find_spec("tensorboard") else "none"


@dataclass
class SuiteTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with the defaults of every recipe here."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Train into a folder that holds a model already, whose files are replaced."}
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Training images a device and step."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate."})
    warmup_steps: float = field(default=0.05, metadata={"help": "Steps of linear warm-up, or below 1 their share."})
    weight_decay: float = field(
        default=0.05,
        metadata={
            "help": "Weight decay of the matrices and, in pretraining, of tokens and positions, as in the papers' "
            "code; norms and biases have none."
        },
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save a checkpoint: no, steps or epoch."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept at a time."})
    logging_steps: float = field(default=20, metadata={"help": "Steps between two lines of the training log."})
    hub_strategy: str = field(
        default="end", metadata={"help": "When to push: pushes before the end hold no code and no card."}
    )
    report_to: str | None = field(
        default_factory=default_report_to, metadata={"help": "Where logs go: tensorboard, wandb, none, ..."}
    )
    dataloader_num_workers: int = field(
        default_factory=lambda: 4 if torch.cuda.is_available() else 0,
        metadata={"help": "Processes that decode images; 4 beside a GPU, else 0."},
    )
    dataloader_pin_memory: bool = field(
        default_factory=torch.cuda.is_available, metadata={"help": "Pin batches in memory; on beside a GPU."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: images become pixel_values when they are read."}
    )

    def __init_subclass__(cls, **kwargs: Any):
        """Lets a subclass's own `__post_init__` record what was given before it derives anything."""
        super().__init_subclass__(**kwargs)
        if "__post_init__" in vars(cls):
            cls.__post_init__ = recording_given(cls.__post_init__)

    @recording_given
    def __post_init__(self):
        super().__post_init__()

    @property
    def total_batch_size(self) -> int:
        """Images a step: of all devices, processes and accumulated batches."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    def keep_token_out_of_files(self) -> None:
        """Moves the Hub's token to the environment: Trainer would save it with its arguments, and push it."""
        if self.hub_token is not None:
            os.environ["HF_TOKEN"], self.hub_token = self.hub_token, None


@dataclass
class FinetuneTrainingArguments(SuiteTrainingArguments):
    """TrainingArguments with the defaults of fine-tuning vision transformers."""

    output_dir: str | None = field(default="outputs/finetune", metadata={"help": "Folder of the trained model."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Evaluation images a device and step."})
    num_train_epochs: float = field(default=10.0, metadata={"help": "Passes over the training images."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps or epoch."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "Keep the best checkpoint, not the last."})
    metric_for_best_model: str | None = field(default="accuracy", metadata={"help": "What makes a checkpoint best."})


# Peak learning rates by how much is trained, for AdamW at the default batch size.
LEARNING_RATES = {"scratch": 5e-4, "checkpoint": 1e-4, "linear_probe": 1e-2, "lora": 1e-3}

# What suits a data set that comes with the package; each value only where the user gives none.
DATASET_DEFAULTS = {
    "digits": {
        # Digits are 8 x 8 pixels, so a small network is enough, and a mirrored digit is no digit.
        "preset": "vit_tiny_patch16_224",
        "config_overrides": "image_size=32,patch_size=8,num_hidden_layers=6",
        "horizontal_flip": 0.0,
        "crop_scale": 0.6,
        "rand_augment": 6,
        "num_train_epochs": 60.0,
    }
}

# Going on from an encoder pretrained without labels (MAE, table 9): 1e-3 x 64 / 256, and less for earlier layers.
PRETRAINED_DEFAULTS = {"learning_rate": 2.5e-4, "layer_decay": 0.75}


def job_defaults(given: argparse.Namespace) -> dict:
    """Defaults that follow from the job: they are set before the command line is read, which then wins."""
    defaults = dict(DATASET_DEFAULTS.get(given.dataset, {}))
    if given.model is not None or given.preset is not None:
        for name in ("preset", "config_overrides"):
            defaults.pop(name, None)
    mode = (
        "linear_probe" if given.linear_probe else "lora" if given.lora else "checkpoint" if given.model else "scratch"
    )
    defaults["learning_rate"] = LEARNING_RATES[mode]
    if (
        mode == "checkpoint"
        and given.preset is None
        and is_pretrained_encoder(open_pretrained(AutoConfig, given.model))
    ):
        defaults |= PRETRAINED_DEFAULTS
    return defaults
