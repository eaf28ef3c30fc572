"""Classifying images by the names of the classes (Radford et al. 2021, arXiv 2103.00020, section 3.1)."""

from collections import Counter
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .two_towers import TwoTowers

PAPER_TEMPLATES = "imagenet"


def class_features(
    towers: TwoTowers, names: Sequence[str], templates: Sequence[str], batch_size: int = 64, bf16: bool = False
) -> Tensor:
    """What stands for each class: the mean of its name's features in each template (section 3.1.4).

    Args:
        towers: Encode the texts.
        names: Of the classes.
        templates: Texts in which `{}` is the name.
        batch_size: Texts at a time.
        bf16: Whether to compute in bfloat16.

    Returns:
        `[classes, projection]`, each of length 1.
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    features = towers.encode_texts(texts, batch_size, bf16).unflatten(0, (len(names), len(templates)))
    return F.normalize(features.mean(dim=1), dim=-1)


def prompt_templates(given: Sequence[str]) -> list[str]:
    """The templates that a command line names: texts, or `imagenet` for the paper's 80.

    Raises:
        ValueError: If one has no place for the name, or open_clip, which has the paper's, is not installed.
    """
    if list(given) == [PAPER_TEMPLATES]:
        try:
            from open_clip import OPENAI_IMAGENET_TEMPLATES
        except ImportError as error:
            raise ValueError(
                "--templates imagenet needs the package open_clip, which has the paper's: pip install open_clip_torch"
            ) from error
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    if bare := [template for template in given if "{}" not in template]:
        raise ValueError(f"a template needs {{}} where the label's name goes, got {bare[0]!r}")
    return list(given)


def label_names(text: str | None, default: Sequence[str]) -> list[str]:
    """Names of the labels from a command line, with commas between, or the data's own.

    Raises:
        ValueError: If a name is empty, or there are not as many as the data has labels.
    """
    if text is None:
        return list(default)
    names = split_names(text)
    if len(names) != len(default):
        raise ValueError(f"--labels names {len(names)} labels, the data has {len(default)}")
    return names


def distinct_names(names: Sequence[str]) -> dict[int, str]:
    """Names by number; labels that share a name, as two of ImageNet are cranes, have their number in it."""
    times = Counter(names)
    return {number: name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)}


def split_names(text: str) -> list[str]:
    """`"a cat, a dog"` -> `["a cat", "a dog"]`.

    Raises:
        ValueError: If a name is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"--labels takes names with commas between, none of them empty, got {text!r}")
    return names
