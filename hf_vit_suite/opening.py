"""Opening checkpoints by name, with errors that name what could not be opened."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig


def open_pretrained(auto_class: type, name: str, **options) -> Any:
    """`auto_class.from_pretrained(name, **options)`.

    Args:
        auto_class: An Auto class of transformers.
        name: Folder or Hub name.

    Raises:
        ValueError: If there is no such folder or Hub name, or it holds something else.
    """
    try:
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        reason = str(error)
        if reason.startswith("Unrecognized configuration class"):  # transformers goes on with every class it knows
            reason = f"it holds a {AutoConfig.from_pretrained(name).model_type}, which is no model of that kind"
        raise ValueError(f"{name} can't be opened by {auto_class.__name__}: {reason}") from error


def is_pretrained_encoder(config: PretrainedConfig) -> bool:
    """Whether a config is of one of the suite's families that are pretrained without labels and have no classifier."""
    return callable(getattr(config, "encoder_config", None))


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a classifier was saved: CLIP's and SigLIP's have the config of the model without a head."""
    return any("ForImageClassification" in name for name in config.architectures or ())
