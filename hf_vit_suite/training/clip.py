"""Pretraining CLIP (Radford et al. 2021, arXiv 2103.00020): its arguments, its Trainer and its recipe.

The objective is in `models/modeling_clip.py` and `models/contrastive.py`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from datasets import IterableDataset
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import (
    AutoModel,
    CLIPProcessor,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.generic import ModelOutput

from ..data import (
    CaptionCollator,
    CaptionedImages,
    CaptionedImageTransform,
    SourceArguments,
    apply_transform,
    captions_of_labels,
    count_cut_captions,
    evaluation_transform,
    load_captioned_images,
    load_image_dataset,
    training_transform,
)
from ..hub import TWO_TOWERS
from ..inference.zero_shot import label_names, prompt_templates
from .arguments import SuiteTrainingArguments, digits_defaults
from .building import CLIPModelArguments, build_towers
from .recipe import Recipe, ReloadCheck, Run, RunArguments
from .results import pretraining_card, pretraining_curves, pretraining_report, pretraining_summary
from .trainer import SuiteTrainer

logger = logging.getLogger(__name__)

CHECKED_PAIRS = 4


@dataclass
class CaptionDataArguments(SourceArguments):
    """Data options of CLIP."""

    dataset: str = field(
        default="digits",
        metadata={
            "help": "folder of images with metadata.csv (columns file_name and text), a parquet or webdataset path or "
            "a Hub data set; of several splits train alone is read. With --caption_templates images with labels"
        },
    )
    text_column: str | None = field(
        default=None, metadata={"help": "column of the captions, one or a list per image; default found by name"}
    )
    caption_templates: list[str] | None = field(
        default=None,
        metadata={
            "help": "make captions of the labels' names: texts in which {} is the name, one drawn each time, or "
            "imagenet for the 80 of the CLIP paper"
        },
    )
    labels: str | None = field(
        default=None, metadata={"help": "label names in order, with commas between; default the data's own"}
    )
    streaming: bool = field(default=False, metadata={"help": "read the data while training; needs --max_steps"})


@dataclass
class CLIPMethodArguments:
    """Augmentation; the paper uses random crops alone."""

    crop_scale: float = field(default=0.9, metadata={"help": "smallest fraction of the image that a crop keeps"})
    horizontal_flip: float = field(
        default=0.0, metadata={"help": "probability of a horizontal flip; captions may name left and right"}
    )


# Defaults for the data set that comes with the package.
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


@dataclass
class CLIPTrainingArguments(SuiteTrainingArguments):
    """TrainingArguments with the paper's recipe (tables 18 and 20): 32 epochs of AdamW."""

    output_dir: str | None = field(default="outputs/clip", metadata={"help": "folder of the trained model"})
    num_train_epochs: float = field(default=32.0, metadata={"help": "passes over the pairs"})
    per_device_train_batch_size: int = field(
        default=128,
        metadata={"help": "pairs per device per step; each is contrasted with all others, so more is better"},
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "peak learning rate; 4e-4 for a ViT-L in the paper"})
    weight_decay: float = field(
        default=0.2, metadata={"help": "weight decay of all weights but norms, biases and the temperature"}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "second beta of AdamW"})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "epsilon of AdamW"})
    dataloader_drop_last: bool = field(default=True, metadata={"help": "drop the last, incomplete batch of an epoch"})
    cached_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "pairs whose activations are kept at a time, so that any batch fits in memory; exact gradients, "
            "one more forward pass; default all"
        },
    )
    local_loss: bool = field(
        default=True,
        metadata={"help": "in distributed runs each process computes the loss of its own pairs; equal gradients"},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.cached_batch_size is not None and self.cached_batch_size < 1:
            raise ValueError(f"--cached_batch_size must be at least 1, got {self.cached_batch_size}")
        if self.pairs_compared < 2:
            raise ValueError(
                "--per_device_train_batch_size 1: contrastive loss is 0 for a single pair: give a batch size of at "
                "least 2"
            )

    @property
    def pairs_compared(self) -> int:
        """Pairs that are contrasted with each other: those of all processes, not of accumulated batches."""
        return self.train_batch_size * self.world_size


class CLIPTrainer(SuiteTrainer):
    """Trainer of `SuiteCLIPModel`."""

    args: CLIPTrainingArguments

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.refuse_data_parallel()
        self.add_callback(ScaleClamp())

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """The model's loss over the pairs of every process."""
        outputs = model(
            **inputs,
            return_loss=True,
            cached_batch_size=self.args.cached_batch_size,
            local_loss=self.args.local_loss,
        )
        if self.is_logged:
            scale = self.accelerator.unwrap_model(model).logit_scale
            self.noticed = {
                "in_batch_accuracy": outputs.accuracy,
                "temperature": torch.exp(-scale.detach()).to(outputs.accuracy.device),
            }
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class ScaleClamp(TrainerCallback):
    """Keeps the inverse temperature at 100 or below after each step of the optimiser."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs
    ) -> None:
        model.clamp_scale()


def job_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults that follow from the data and from what is given for the towers."""
    defaults = digits_defaults(given, DIGITS_DEFAULTS)
    if given["model"] is not None or given["tokenizer"] is not None:
        defaults.pop("train_tokenizer", None)
    if given["image_tower"] is not None and "config_overrides" in defaults:  # the tower brings its own config
        defaults["config_overrides"] = ",".join(
            part for part in defaults["config_overrides"].split(",") if not part.startswith("vision_config.")
        )
    return defaults


def load_data(arguments: RunArguments) -> CaptionedImages:
    """The pairs; enough of them for a batch."""
    data = load_pairs(arguments.data, arguments.training.seed)
    check_batch(data, arguments.training)
    return data


def load_pairs(arguments: CaptionDataArguments, seed: int) -> CaptionedImages:
    """The images and captions that the arguments name.

    Raises:
        ValueError: As `load_captioned_images` and `load_image_dataset`, or if the arguments don't fit together.
    """
    shared = {"streaming": arguments.streaming, **arguments.source_options()}
    if arguments.caption_templates is None:
        if arguments.labels is not None:
            raise ValueError("--labels names what --caption_templates makes captions of: give both")
        # Rows that repeat an image with other captions stay separate pairs, so that an epoch sees every caption. Two
        # such rows in a batch are then contrasted with each other, as in CLIP.
        return load_captioned_images(
            arguments.dataset, text_column=arguments.text_column, one_row_an_image=False, **shared
        )
    if arguments.streaming or arguments.text_column is not None:
        raise ValueError("--caption_templates makes captions of labels: leave --streaming and --text_column out")
    data = load_image_dataset(arguments.dataset, seed=seed, **shared)
    names = label_names(arguments.labels, data.label_names)
    return captions_of_labels(data, "train", names, prompt_templates(arguments.caption_templates))


def check_batch(data: CaptionedImages, arguments: CLIPTrainingArguments) -> None:
    """Refuses a batch larger than the data."""
    if isinstance(data.rows, IterableDataset) or not arguments.dataloader_drop_last:
        return
    if len(data.rows) < arguments.pairs_compared:
        raise ValueError(
            f"a step takes {arguments.pairs_compared} pairs and the data has {len(data.rows)}: give a smaller "
            "--per_device_train_batch_size, or --dataloader_drop_last False"
        )


def count_truncated(data: CaptionedImages, model: PreTrainedModel, processor: CLIPProcessor) -> int | None:
    """Counts the captions that the model truncates, and warns of them; `None` for streams."""
    if isinstance(data.rows, IterableDataset):
        return None
    most_tokens = model.config.text_config.max_position_embeddings
    cut = count_cut_captions(data.rows, processor.tokenizer, most_tokens)
    if cut:
        logger.warning("%d captions have more than %d tokens and are truncated", cut, most_tokens)
    return cut


def text_length(model: PreTrainedModel) -> int:
    """Tokens that the text tower reads."""
    return model.config.text_config.max_position_embeddings


def augmentation(run: Run) -> CaptionedImageTransform:
    """Randomly cropped images, each with one of its captions; counts the captions that are truncated."""
    method = run.arguments.method
    run.measured = count_truncated(run.data, run.model, run.processor)
    augment = training_transform(
        run.processor.image_processor,
        crop_scale=(method.crop_scale, 1.0),
        horizontal_flip=method.horizontal_flip,
    )
    return CaptionedImageTransform(augment, run.processor.tokenizer, text_length(run.model))


def collator(run: Run) -> CaptionCollator:
    """Pads the texts of a batch."""
    return CaptionCollator(run.model.config.text_config.pad_token_id)


def first_pairs(run: Run) -> dict[str, Tensor]:
    """The first pairs, not augmented, as the model's arguments."""
    transform = CaptionedImageTransform(
        evaluation_transform(run.processor.image_processor), run.processor.tokenizer, text_length(run.model)
    )
    with torch.random.fork_rng(devices=[]):
        rows = list(islice(apply_transform(run.data.rows, transform), CHECKED_PAIRS))
    return collator(run)(rows)


def report(run: Run) -> dict:
    """Metrics, and the number of truncated captions."""
    return pretraining_report(run.trainer, run.data) | {"cut_captions": run.measured}


def figures(run: Run) -> dict[str, Callable[[], Figure]]:
    """Curves."""
    return {"curves.png": partial(pretraining_curves, run.trainer.state.log_history)}


def reload_check(run: Run) -> ReloadCheck:
    """Similarities of the first pairs."""
    pairs = first_pairs(run)

    def similarities(model: PreTrainedModel) -> Tensor:
        return model(**{name: value.to(model.device) for name, value in pairs.items()}).logits_per_image

    return ReloadCheck(AutoModel, similarities)


CLIP = Recipe(
    name="pretrain clip",
    description="Trains an image tower and a text tower on captioned images and leaves a folder that AutoModel opens.",
    kinds=(CLIPModelArguments, CaptionDataArguments, CLIPMethodArguments, CLIPTrainingArguments),
    job_defaults=job_defaults,
    load_data=load_data,
    build_model=build_towers,
    training_split=lambda data: data.rows,
    transform=augmentation,
    collate=collator,
    trainer_class=CLIPTrainer,
    report=report,
    figures=figures,
    card=partial(pretraining_card, kind=TWO_TOWERS),
    reload_check=reload_check,
    summary=pretraining_summary,
)
