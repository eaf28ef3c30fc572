"""Results of a finished run: the model folder with figures and card, and the check that the folder reloads."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from huggingface_hub import ModelCard
from matplotlib.figure import Figure
from torch import Tensor
from transformers import PreTrainedModel
from transformers.trainer_utils import PredictionOutput

from ..data import ImageTransform, LabelledImages, apply_transform, evaluation_transform
from ..drawing import write_figures
from ..explain import classifier_attention_figure
from ..files import staged_file, staged_folder
from ..hub import ClassifierFacts, classifier_card
from .arguments import DataArguments, ModelArguments
from .figures import confusion_figure, training_curves
from .trainer import ClassificationTrainer, SuiteTrainer

logger = logging.getLogger(__name__)

FIGURE_IMAGES = 4
# Of the largest output: products of a GPU in TF32, or in another order, differ by less.
MOST_RELOAD_DIFFERENCE = 1e-3


def save_results(
    trainer: ClassificationTrainer,
    data: LabelledImages,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    report: dict,
    predictions: PredictionOutput,
    command: str,
) -> None:
    """Writes the model folder of a classifier.

    Args:
        trainer: After training.
        data: What it was trained and tested on.
        model_arguments: Of the run.
        data_arguments: Of the run.
        report: What metrics.json holds.
        predictions: On the test images.
        command: How the run was called.
    """
    labels, predicted = predictions.label_ids, predictions.predictions.argmax(axis=-1)
    figures = {
        "curves.png": partial(training_curves, trainer.state.log_history),
        "confusion_matrix.png": partial(confusion_figure, labels, predicted, data.label_names),
    }
    if hasattr(trainer.model.config, "num_prefix_tokens"):  # only the suite's models
        figures["attention.png"] = partial(attention_on_test_images, trainer, data)

    def card(drawn: Sequence[str]) -> ModelCard:
        return classifier_card(card_facts(trainer, data, model_arguments, data_arguments, report, command, drawn))

    write_model_folder(trainer, report, figures, card)


def write_model_folder(
    trainer: SuiteTrainer,
    report: dict,
    figures: Mapping[str, Callable[[], Figure]],
    card: Callable[[Sequence[str]], ModelCard],
) -> None:
    """Saves the model, then figures and a card; if those fail, the saved model stays.

    Args:
        trainer: After training.
        report: What metrics.json holds.
        figures: What draws each, by file name.
        card: Makes the card of the figures that were drawn.
    """
    output_dir = Path(trainer.args.output_dir)
    with staged_folder(output_dir) as folder:
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
    drawn = write_figures(output_dir, figures)
    with staged_file(output_dir / "README.md") as path:
        card(drawn).save(path)


def first_test_images(trainer: ClassificationTrainer, data: LabelledImages, number: int) -> Tensor:
    """The first test images, `[images, channels, height, width]`, ready for the model."""
    transform = ImageTransform(evaluation_transform(trainer.processing_class))
    rows = islice(apply_transform(data.splits["test"], transform), number)
    return torch.stack([row["pixel_values"] for row in rows])


def attention_on_test_images(trainer: ClassificationTrainer, data: LabelledImages) -> Figure:
    """The last layer's attention on a few test images."""
    model = trainer.model.eval()
    pixel_values = first_test_images(trainer, data, FIGURE_IMAGES).to(model.device)
    return classifier_attention_figure(model, pixel_values, trainer.processing_class)


def card_facts(
    trainer: ClassificationTrainer,
    data: LabelledImages,
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    report: dict,
    command: str,
    figures: Sequence[str],
) -> ClassifierFacts:
    """The run's figures for the model card."""
    arguments = trainer.args
    architecture = model_arguments.preset or type(trainer.model).__name__
    if model_arguments.config_overrides is not None:
        architecture += f" with {model_arguments.config_overrides}"
    return ClassifierFacts(
        name=arguments.hub_model_id or Path(arguments.output_dir).name,
        base=model_arguments.model,
        architecture=f"{architecture} ({report['parameters'] / 1e6:.2g} M parameters)",
        dataset=data_arguments.dataset,
        label_names=data.label_names,
        images=report["images"],
        metrics=report["metrics"],
        skipped=len(data.skipped),
        command=command,
        training=training_sentence(trainer, report, arguments.train_batch_size),
        figures=figures,
    )


def training_sentence(trainer: SuiteTrainer, report: dict, batch: int) -> str:
    """How long and with what a model was trained."""
    arguments = trainer.args
    return (
        f"{report['steps']} steps ({report['epochs']:.1f} epochs) in {report['seconds_of_training']:.0f} seconds "
        f"on {arguments.device.type}, learning rate {arguments.learning_rate:g}, batch {batch}, seed {arguments.seed}."
    )


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
        output: What to compare, computed on the device that the model is on.
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
    # On the same device: another one, and the reduced precision of its products, would count as a difference.
    reloaded = auto_class.from_pretrained(trainer.args.output_dir).to(trained.device).eval()
    expected, found = output(trained), output(reloaded)
    if not (expected.isfinite().all() and found.isfinite().all()):
        raise ValueError("an output of the trained or the reloaded model is not finite")
    largest = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)  # against 0 / 0
    return ((found - expected).abs().max() / largest).item()
