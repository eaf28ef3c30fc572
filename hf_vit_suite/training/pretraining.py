"""What the pretraining recipes share: their data's and Trainer's arguments, and what a finished run leaves."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from datasets import IterableDataset
from matplotlib.figure import Figure

from ..data import UnlabelledImages
from ..files import staged_folder
from ..hub import PretrainedFacts, pretrained_card
from .arguments import SuiteTrainingArguments
from .figures import loss_curve
from .results import command_line, training_sentence
from .trainer import SuiteTrainer

REFERENCE_BATCH = 256


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

    @property
    def total_batch_size(self) -> int:
        """Images a step: of all devices, processes and accumulated batches."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    def __post_init__(self):
        super().__post_init__()
        if self.learning_rate is None:
            self.learning_rate = self.base_learning_rate * self.total_batch_size / REFERENCE_BATCH


def pretraining_report(trainer: SuiteTrainer, data: UnlabelledImages, seconds: float) -> dict:
    """What metrics.json holds of a run: `loss` is the last that was logged, or the mean where none was."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    losses = losses or [entry["train_loss"] for entry in history if "train_loss" in entry]
    steps = trainer.state.global_step
    return {
        "metrics": {"loss": losses[-1]},
        "images": {"train": None if isinstance(data.rows, IterableDataset) else len(data.rows)},
        "skipped_images": data.skipped,
        "epochs": trainer.state.epoch,
        "steps": steps,
        "parameters": trainer.model.num_parameters(),
        "encoder_parameters": trainer.model.base_model.num_parameters(),
        "seconds_of_training": seconds,
    }


def save_pretrained_results(trainer: SuiteTrainer, report: dict, figures: dict[str, Figure], dataset: str) -> None:
    """Writes the model folder; its files appear together, once all of them are written.

    Args:
        trainer: After training.
        report: What metrics.json holds.
        figures: Pictures by file name, to stand beside the curve of the loss.
        dataset: Name of the data.
    """
    with staged_folder(trainer.args.output_dir) as folder:
        trainer.model.save_pretrained(folder)
        trainer.processing_class.save_pretrained(folder)
        (folder / "metrics.json").write_text(json.dumps(report, indent=2) + "\n")
        loss_curve(trainer.state.log_history).savefig(folder / "curves.png", dpi=120)
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=120)
        pretrained_card(card_facts(trainer, report, list(figures), dataset)).save(folder / "README.md")


def card_facts(trainer: SuiteTrainer, report: dict, pictures: list[str], dataset: str) -> PretrainedFacts:
    """The run's figures for the model card."""
    arguments = trainer.args
    millions = report["encoder_parameters"] / 1e6
    return PretrainedFacts(
        name=arguments.hub_model_id or Path(arguments.output_dir).name,
        architecture=f"{type(trainer.model).__name__} (encoder of {millions:.3g} M parameters)",
        dataset=dataset,
        images=report["images"]["train"],
        skipped=len(report["skipped_images"]),
        loss=report["metrics"]["loss"],
        pictures=pictures,
        command=command_line(),
        training=training_sentence(trainer, report, arguments.total_batch_size),
    )
