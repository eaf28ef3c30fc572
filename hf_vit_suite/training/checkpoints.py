"""The output folder of a run: refuses to mix two models, finds the checkpoint to resume from, trains."""

import shutil
import time
from pathlib import Path

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .arguments import SuiteTrainingArguments

# Trainer writes it last: a checkpoint without it is incomplete.
TRAINER_STATE = "trainer_state.json"


def prepare_output_dir(arguments: SuiteTrainingArguments, last_written: str = TRAINER_STATE) -> str | None:
    """Refuses to mix two models in one folder; returns the checkpoint to resume from, if any.

    Args:
        arguments: The run's arguments.
        last_written: The file that marks a checkpoint as complete.

    Raises:
        ValueError: If the folder holds another model, or there is no checkpoint to resume from.
    """
    folder = Path(arguments.output_dir)
    if arguments.resume_from_checkpoint:
        return checkpoint_to_resume(str(arguments.resume_from_checkpoint), folder, last_written)
    if not arguments.should_save:
        return None
    old = [path for path in (folder / "config.json", *checkpoints(folder)) if path.exists()]
    if old and not arguments.overwrite_output_dir:
        raise ValueError(
            f"{folder} holds a model already ({old[0].name}): choose another --output_dir, continue it by "
            "--resume_from_checkpoint last, or replace it by --overwrite_output_dir"
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Trainer's checkpoint folders."""
    return list(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def checkpoint_to_resume(value: str, folder: Path, last_written: str) -> str:
    """The checkpoint folder that `--resume_from_checkpoint` names; "last" or "true" is the last complete one."""
    if value.lower() not in ("last", "true"):
        if not Path(value, TRAINER_STATE).is_file():
            raise ValueError(f"--resume_from_checkpoint: {value} is no checkpoint folder (it has no {TRAINER_STATE})")
        return value
    complete = [path for path in checkpoints(folder) if (path / last_written).is_file()]
    if not complete:
        raise ValueError(f"--resume_from_checkpoint: {folder} has no complete checkpoint, start without it")
    return str(max(complete, key=lambda path: int(path.name.split("-")[-1])))


def train(trainer: Trainer, resume_from: str | None) -> float:
    """Trains, after removing the checkpoints of a replaced model; returns the seconds it took."""
    if trainer.args.should_save and resume_from is None:
        for old in checkpoints(Path(trainer.args.output_dir)):
            shutil.rmtree(old)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=resume_from)
    return round(time.perf_counter() - started, 1)
