"""What a finished run leaves: the model folder with figures and card, and the check that the folder reloads."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from datasets import IterableDataset
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel

from ..data import CaptionedImages, UnlabelledImages, dataset_name
from ..hub import ENCODER, Pretrained, PretrainedFacts, pretrained_card
from ..output import failure_is_a_warning, staged_file, staged_folder, write_figures
from .trainer import SuiteTrainer

if TYPE_CHECKING:
    from .recipe import Run

logger = logging.getLogger(__name__)

# Relative to the largest output: TF32 and another order of summation on a GPU differ by less.
MOST_RELOAD_DIFFERENCE = 1e-3
PRETRAINING_CURVES = {
    "loss": "training loss",
    "knn_accuracy": "k-NN accuracy",
    "teacher_entropy": "teacher's entropy (nats)",
    "in_batch_accuracy": "accuracy within the batch",
    "temperature": "temperature",
    "center_divergence": "divergence from the centre (nats)",
}


def merge_adapters(trainer: SuiteTrainer) -> None:
    """Merges LoRA adapters into the weights, so that the folder opens without peft."""
    if hasattr(trainer.model, "merge_and_unload"):
        trainer.model = trainer.model_wrapped = trainer.model.merge_and_unload()


def save_model(trainer: SuiteTrainer) -> None:
    """Saves weights, config, code and processor, and removes what describes a model that they replace.

    Args:
        trainer: After training; nothing is measured yet, so no failure of that costs the weights.
    """
    output_dir = Path(trainer.args.output_dir)
    with staged_folder(output_dir) as folder:
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
    for name in ("metrics.json", "README.md"):
        (output_dir / name).unlink(missing_ok=True)


def add_to_config(trainer: SuiteTrainer, **fields) -> None:
    """Adds fields to the saved config.json."""
    path = Path(trainer.args.output_dir) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | fields
    with staged_file(path) as staged:
        staged.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_results(
    trainer: SuiteTrainer,
    report: dict,
    figures: Callable[[], Mapping[str, Callable[[], Figure]]],
    card: Callable[[Sequence[str]], ModelCard],
) -> None:
    """Writes metrics.json, then figures and a card; a failure of those is a warning.

    Args:
        trainer: After its model was saved.
        report: What metrics.json holds.
        figures: Returns what draws each figure, by file name.
        card: Makes the card, given the names of the drawn figures.
    """
    output_dir = Path(trainer.args.output_dir)
    with staged_file(output_dir / "metrics.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    drawn: list[str] = []
    with failure_is_a_warning("the figures could not be drawn and are left out"):
        drawn = write_figures(output_dir, figures())
    with (
        failure_is_a_warning("the model card README.md could not be written and is left out"),
        staged_file(output_dir / "README.md") as path,
    ):
        card(drawn).save(path)


def check_reload(
    trainer: SuiteTrainer, report: dict, auto_class: type, output: Callable[[PreTrainedModel], Tensor]
) -> None:
    """Reloads the folder through an Auto class and adds `reload` to the report and to metrics.json.

    `reload` holds `difference`, the largest difference from the trained model's output over that output's largest
    value, or `error`. An error or a large difference logs a warning; the trained model is kept and pushed in any case.

    Args:
        trainer: After its model was saved.
        report: What metrics.json holds.
        auto_class: The Auto class of the model's task.
        output: Computes the compared output on the model's device.
    """
    folder = Path(trainer.args.output_dir)
    try:
        difference = reload_difference(trainer, auto_class, output)
    except Exception as error:  # such as a full GPU or disk; the trained model is saved already
        report["reload"] = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
        logger.warning("%s was saved but could not be compared: %s", folder, report["reload"]["error"])
    else:
        report["reload"] = {"difference": difference}
        if difference <= MOST_RELOAD_DIFFERENCE:
            logger.warning("%s loads through %s with the trained model's output", folder, auto_class.__name__)
        else:
            logger.warning(
                "%s was saved, but the output of the model loaded through %s differs from the trained model's by %.3g "
                "of its largest value: compare them before you use it",
                folder,
                auto_class.__name__,
                difference,
            )
    with staged_file(folder / "metrics.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")


@torch.no_grad()
def reload_difference(trainer: SuiteTrainer, auto_class: type, output: Callable[[PreTrainedModel], Tensor]) -> float:
    """Largest difference of the reloaded model's output from the trained one's, over the latter's largest value.

    Raises:
        ValueError: If an output is not finite.
    """
    # Without the mixed precision that Trainer wraps around a model's forward.
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
    # On the same device: another device's precision would count as a difference.
    reloaded = auto_class.from_pretrained(trainer.args.output_dir).to(trained.device).eval()
    expected, found = output(trained), output(reloaded)
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise ValueError("an output of the trained or the reloaded model is not finite")
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # against 0 / 0
    return ((found - expected).abs().max() / largest).item()


def model_name(trainer: SuiteTrainer) -> str:
    """The model's name on the Hub, or its folder's."""
    return trainer.args.hub_model_id or Path(trainer.args.output_dir).name


def training_sentence(trainer: SuiteTrainer, report: dict, batch: int) -> str:
    """Length, time, device and settings of the training."""
    arguments = trainer.args
    return (
        f"{report['steps']} steps ({report['epochs']:.1f} epochs) in {report['seconds_of_training']:.0f} seconds "
        f"on {arguments.device.type}, learning rate {arguments.learning_rate:g}, batch {batch}, seed {arguments.seed}."
    )


def training_curves(log_history: Sequence[dict], metric: str = "accuracy", loss: str = "cross-entropy") -> Figure:
    """Losses and a metric of the validation images by epoch, from Trainer's log.

    Args:
        log_history: Trainer's log.
        metric: Name of the metric in it, without `eval_`.
        loss: The loss in words.
    """
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss_axis, metric_axis = figure.subplots(1, 2)
    for axis, name, label in (
        (loss_axis, "loss", "training"),
        (loss_axis, "eval_loss", "validation"),
        (metric_axis, f"eval_{metric}", "validation"),
    ):
        points = [(entry["epoch"], entry[name]) for entry in log_history if name in entry]
        if points:
            axis.plot(*zip(*points, strict=True), label=label)
    for axis, title in ((loss_axis, loss), (metric_axis, metric)):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend()
    return figure


def pretraining_curves(log_history: Sequence[dict]) -> Figure:
    """Training loss and the method's other logged values by step, from Trainer's log."""
    curves = {
        name: [(entry["step"], entry[name]) for entry in log_history if name in entry] for name in PRETRAINING_CURVES
    }
    drawn = [name for name, points in curves.items() if points] or ["loss"]
    figure = Figure(figsize=(4.2 * len(drawn), 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(drawn), squeeze=False).flat, drawn, strict=True):
        axis.plot([step for step, _ in curves[name]], [value for _, value in curves[name]])
        axis.set(title=PRETRAINING_CURVES[name], xlabel="step")
        axis.grid(alpha=0.3)
    return figure


def pretraining_report(trainer: SuiteTrainer, data: UnlabelledImages | CaptionedImages) -> dict:
    """What metrics.json holds of pretraining; each metric is the last one logged, or the mean loss if none was."""
    history = trainer.state.log_history
    metrics = {name: entry[name] for entry in history for name in PRETRAINING_CURVES if name in entry}
    return {
        "metrics": {"loss": history[-1]["train_loss"]} | metrics,
        "images": {"train": None if isinstance(data.rows, IterableDataset) else len(data.rows)},
        "data": data.reading.report(),
        "skipped_images": data.skipped + trainer.unreadable_images(),
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "parameters": trainer.model.num_parameters(),
        "encoder_parameters": trainer.model.base_model.num_parameters(),
    }


def pretraining_summary(report: dict) -> str:
    """The metrics of pretraining in one line."""
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in report["metrics"].items())
    return f"{metrics} after {report['steps']} steps on {report['images']['train']} images"


def pretraining_card(run: "Run", report: dict, figures: Sequence[str], kind: Pretrained = ENCODER) -> ModelCard:
    """The model card of a pretrained model.

    Args:
        run: After training.
        report: What metrics.json holds.
        figures: Names of the drawn figures.
        kind: What the model is for.
    """
    trainer = run.trainer
    millions = report["encoder_parameters"] / 1e6
    has_more = report["encoder_parameters"] < report["parameters"]
    facts = PretrainedFacts(
        name=model_name(trainer),
        architecture=f"{type(trainer.model).__name__} ({'encoder of ' * has_more}{millions:.3g} M parameters)",
        dataset=dataset_name(run.arguments.data.dataset),
        images=report["images"]["train"],
        skipped=len(report["skipped_images"]),
        metrics=report["metrics"],
        figures=figures,
        command=run.arguments.call,
        training=training_sentence(trainer, report, trainer.args.total_batch_size),
        kind=kind,
    )
    return pretrained_card(facts)
