"""One engine for every recipe: a `Recipe` says what its own parts are, `train_recipe` runs them in order."""

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback, set_seed
from transformers.image_processing_utils import BaseImageProcessor

from ..data import RowTransform
from ..options import as_call, choose, from_options, option_names, plain_value, refuse_unknown, with_defaults
from ..output import Result, failure_is_a_warning
from .arguments import SuiteTrainingArguments
from .checkpoints import TRAINER_STATE, prepare_output_dir, train
from .results import check_reload, merge_adapters, save_model, write_results
from .trainer import SuiteTrainer, training_rows

logger = logging.getLogger(__name__)

Processor = BaseImageProcessor | ProcessorMixin


class RunArguments(NamedTuple):
    """The arguments of one run.

    Args:
        model: Which model.
        data: Which data.
        method: Augmentation and objective.
        training: Trainer's own.
        call: How the run was started, a command line or a Python call, for the model card.
    """

    model: Any
    data: Any
    method: Any
    training: SuiteTrainingArguments
    call: str


@dataclass
class Run:
    """A run of a recipe: its arguments, and what its stages have made so far.

    Args:
        arguments: Of the run.
        resume_from: Checkpoint folder to resume from; `None` starts anew.
        data: What the recipe's `load_data` returned.
        model: The model to train.
        processor: Its image processor; CLIP's processor also holds the tokenizer.
        trainer: The Trainer.
        measured: What a stage keeps for the report or the figures.
    """

    arguments: RunArguments
    resume_from: str | None
    data: Any = None
    model: PreTrainedModel = None
    processor: Processor = None
    trainer: SuiteTrainer = None
    measured: Any = None


class ReloadCheck(NamedTuple):
    """An output that the reloaded folder must repeat.

    Args:
        auto_class: The Auto class of the model's task.
        output: Computes the output of a model on the model's device.
    """

    auto_class: type
    output: Callable[[PreTrainedModel], Tensor]


def no_options(run: Run) -> dict[str, Any]:
    """The default of `Recipe.trainer_options`."""
    return {}


def no_callbacks(run: Run) -> list[TrainerCallback]:
    """The default of `Recipe.callbacks`."""
    return []


@dataclass(frozen=True)
class Recipe:
    """What sets one way of training apart: the functions that `train_recipe` calls.

    Args:
        name: The verb of the command, such as `"finetune"` or `"pretrain mae"`.
        description: One sentence, for `--help`.
        kinds: Dataclasses of the model, data, method and training arguments.
        job_defaults: Defaults that follow from the given options, which win over them.
        load_data: Loads the data.
        build_model: Makes the model and its processor.
        training_split: The rows to train on.
        transform: Decodes and augments rows.
        collate: Makes a batch of rows.
        report: After training: metrics, image counts and parameters, which metrics.json holds.
        figures: Draws each figure beside the results, by file name.
        card: The model card, given the report and the names of the drawn figures.
        reload_check: What the reloaded folder must repeat.
        summary: The report in one line.
        trainer_class: Computes the loss.
        trainer_options: Further arguments of the Trainer.
        callbacks: Of the Trainer, added after its own.
        last_written: The file that marks a checkpoint as complete.
    """

    name: str
    description: str
    kinds: tuple[type, type, type, type]
    job_defaults: Callable[[Mapping[str, Any]], dict[str, Any]]
    load_data: Callable[[RunArguments], Any]
    build_model: Callable[[Any, Any], tuple[PreTrainedModel, Processor]]
    training_split: Callable[[Any], Dataset | IterableDataset]
    transform: Callable[[Run], RowTransform]
    collate: Callable[[Run], Callable[[list[dict]], dict[str, Tensor]]]
    report: Callable[[Run], dict]
    figures: Callable[[Run], Mapping[str, Callable[[], Figure]]]
    card: Callable[[Run, dict, list[str]], ModelCard]
    reload_check: Callable[[Run], ReloadCheck]
    summary: Callable[[dict], str]
    trainer_class: type[SuiteTrainer] = SuiteTrainer
    trainer_options: Callable[[Run], dict[str, Any]] = no_options
    callbacks: Callable[[Run], list[TrainerCallback]] = no_callbacks
    last_written: Callable[[Any], str] = field(default=lambda method: TRAINER_STATE)


def train_recipe(recipe: Recipe, arguments: RunArguments) -> Result:
    """Trains a model and leaves a folder that AutoModel opens.

    The folder holds weights, config, processor and code, metrics.json, figures and a model card README.md, beside
    Trainer's checkpoints.

    Args:
        recipe: How to train.
        arguments: Instances of the recipe's argument dataclasses.

    Raises:
        ValueError: If the arguments don't fit together, the data or the checkpoint don't suit, or the output folder
            holds another model.
    """
    training = arguments.training
    with hub_token_in_environment(training):
        run = Run(arguments, prepare_output_dir(training, recipe.last_written(arguments.method)))
        set_seed(training.seed)
        with training.main_process_first(desc="loading data"):
            run.data = recipe.load_data(arguments)
        run.model, run.processor = recipe.build_model(arguments.model, run.data)
        run.trainer = build_trainer(recipe, run)

        seconds = train(run.trainer, run.resume_from)

        merge_adapters(run.trainer)
        if run.trainer.is_world_process_zero():
            save_model(run.trainer)
        report = measured(recipe, run) | {"seconds_of_training": seconds}
        if run.trainer.is_world_process_zero():
            write_results(run.trainer, report, partial(recipe.figures, run), partial(recipe.card, run, report))
            with failure_is_a_warning(f"{training.output_dir} was saved but could not be compared"):
                check_reload(run.trainer, report, *recipe.reload_check(run))
        if training.push_to_hub:
            run.trainer.push_to_hub()
        run.trainer.accelerator.wait_for_everyone()  # no process uses or leaves a folder that is not there yet
    model, metrics, output_dir = run.trainer.model.eval(), report["metrics"], Path(training.output_dir)
    return Result(model, run.processor, metrics, output_dir, str(output_dir), report, recipe.summary(report))


def measured(recipe: Recipe, run: Run) -> dict:
    """The recipe's report; an error says that the trained model is saved."""
    try:
        return recipe.report(run)
    except Exception:
        logger.warning("%s holds the trained model, which could not be measured", run.arguments.training.output_dir)
        raise


def build_trainer(recipe: Recipe, run: Run) -> SuiteTrainer:
    """The recipe's Trainer on its augmented training rows."""
    training = run.arguments.training
    run.trainer = recipe.trainer_class(
        model=run.model,
        args=training,
        data_collator=recipe.collate(run),
        train_dataset=training_rows(
            recipe.training_split(run.data), recipe.transform(run), training, run.arguments.data.strict_images
        ),
        processing_class=run.processor,
        **recipe.trainer_options(run),
    )
    for callback in recipe.callbacks(run):
        run.trainer.add_callback(callback)
    return run.trainer


@contextmanager
def hub_token_in_environment(arguments: SuiteTrainingArguments) -> Iterator[None]:
    """Within the block the Hub token is in the environment: Trainer would save it with its arguments, and push it."""
    token, arguments.hub_token = arguments.hub_token, None
    before = os.environ.get("HF_TOKEN")
    if token is not None:
        os.environ["HF_TOKEN"] = token
    try:
        yield
    finally:
        if token is not None:
            os.environ.pop("HF_TOKEN")
            if before is not None:
                os.environ["HF_TOKEN"] = before


def arguments_of(recipe: Recipe, options: Mapping[str, Any], call: str) -> RunArguments:
    """The arguments of a run from options by name, completed by the recipe's defaults for such a job.

    Raises:
        ValueError: If an option is unknown, with the nearest name, or has a wrong value.
    """
    refuse_unknown(options, option_names(recipe.kinds), recipe.name)
    options = {name: plain_value(value) for name, value in options.items()}
    defaults = recipe.job_defaults(with_defaults(recipe.kinds, options))
    return RunArguments(*from_options(recipe.kinds, defaults | options, recipe.name), call)


def call_recipe(recipe: Recipe, function: str, arguments: tuple[str, ...], options: Mapping[str, Any]) -> Result:
    """Trains by options; the model card shows the Python call."""
    call = f"# called from Python\n{as_call(function, *arguments, **options)}"
    return train_recipe(recipe, arguments_of(recipe, options, call))


# The constant of each recipe in the file of its name, which is imported when it is used.
RECIPES = {"finetune": "FINETUNE", "mae": "MAE", "dino": "DINO", "clip": "CLIP"}


def load_recipe(name: str) -> Recipe:
    """A recipe by name, such as `"mae"`."""
    return getattr(importlib.import_module(f".{name}", __package__), RECIPES[name])


def finetune(**options: Any) -> Result:
    """Fine-tunes an image classifier and leaves a folder that AutoModel opens, as `hf-vit-suite finetune` does.

    Args:
        **options: Flags of the command by name: `dataset` (a name as for the command, a `datasets.Dataset` or
            `DatasetDict`, or a torch `Dataset` of (image, label)), `model` or `preset`, `output_dir`, `learning_rate`,
            and every field of transformers' `TrainingArguments`.

    Raises:
        ValueError: If an option is unknown, or model, data and options don't fit together.
    """
    return call_recipe(load_recipe("finetune"), "hf_vit_suite.finetune", (), options)


def pretrain(method: str, **options: Any) -> Result:
    """Pretrains an encoder and leaves a folder that AutoModel opens, as `hf-vit-suite pretrain METHOD` does.

    Args:
        method: `"mae"`, `"dino"` or `"clip"`.
        **options: Flags of the command by name, as for `finetune`.

    Raises:
        ValueError: If the method or an option is unknown, or model, data and options don't fit together.
    """
    choose(method, [name for name in RECIPES if name != "finetune"], "pretraining method")
    return call_recipe(load_recipe(method), "hf_vit_suite.pretrain", (method,), options)
