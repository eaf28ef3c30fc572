"""Opens checkpoints by name, with errors that name what could not be opened."""

import os
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from ..output import Result


def checkpoint_name(model: str | os.PathLike | Result) -> str:
    """The folder or Hub name of a checkpoint, or of the model in a result of the Python API.

    Raises:
        ValueError: If it is something else, such as a model without its image processor.
    """
    if isinstance(model, Result):
        return model.checkpoint
    if not isinstance(model, str | os.PathLike):
        raise ValueError(
            f"model must be a folder, a Hub name or a result, got a {type(model).__name__}: save it first"
        )
    return os.fspath(model)


def open_pretrained(auto_class: type, name: str, **options) -> Any:
    """`auto_class.from_pretrained(name, **options)`.

    Args:
        auto_class: An Auto class of transformers.
        name: Folder or Hub name.

    Raises:
        ValueError: If there is no such folder or Hub name, or it holds another kind of model.
    """
    try:
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = str(error)
        if reason.startswith("Unrecognized configuration class"):  # transformers then lists every class it knows
            reason = f"it holds a {AutoConfig.from_pretrained(name).model_type}, which is no model of that kind"
        raise ValueError(f"{name} can't be opened by {auto_class.__name__}: {reason}") from error


def is_pretrained_encoder(config: PretrainedConfig) -> bool:
    """Whether a config is of a family of the suite that is pretrained and has no classifier."""
    return callable(getattr(config, "encoder_config", None))


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a classifier was saved; those of CLIP and SigLIP have the config of the model without a head."""
    return any("ForImageClassification" in name for name in config.architectures or ())


def best_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
