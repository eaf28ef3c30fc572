"""Zero-shot classification: prompts and class features (Radford et al. 2021, arXiv 2103.00020, section 3.1)."""

from collections import Counter
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from .two_towers import TwoTowers

PAPER_TEMPLATES = "imagenet"


def class_features(
    towers: TwoTowers, names: Sequence[str], templates: Sequence[str], batch_size: int = 64, bf16: bool = False
) -> Tensor:
    """Class embeddings: the mean over the templates of the text features of each class name (section 3.1.4).

    Args:
        towers: Encode the texts.
        names: Class names.
        templates: Texts in which `{}` is the name.
        batch_size: Texts per forward pass.
        bf16: Whether to compute in bfloat16.

    Returns:
        L2-normalised `[classes, projection]`.
    """
    texts = [template.replace("{}", name) for name in names for template in templates]
    features = towers.encode_texts(texts, batch_size, bf16).unflatten(0, (len(names), len(templates)))
    return F.normalize(features.mean(dim=1), dim=-1)


def prompt_templates(given: Sequence[str]) -> list[str]:
    """The given templates, or the paper's 80 for `imagenet`.

    Raises:
        ValueError: If there is no template, one has no `{}`, or open_clip, which holds the paper's, is not installed.
    """
    if list(given) == [PAPER_TEMPLATES]:
        try:
            from open_clip import OPENAI_IMAGENET_TEMPLATES
        except ImportError as error:
            raise ValueError(
                "--templates imagenet needs the package open_clip, which has the paper's: pip install open_clip_torch"
            ) from error
        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    if not given:
        raise ValueError("give at least one template, such as 'a photo of a {}.'")
    if bare := [template for template in given if "{}" not in template]:
        raise ValueError(f"a template needs {{}} where the label's name goes, got {bare[0]!r}")
    return list(given)


def label_names(given: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The given label names, a list or a text with commas between, or the data's own.

    Raises:
        ValueError: If a name is empty, or the number of names is not the number of labels.
    """
    if given is None:
        return list(default)
    names = split_names(given) if isinstance(given, str) else list(given)
    if len(names) != len(default):
        raise ValueError(f"--labels names {len(names)} labels, the data has {len(default)}")
    return names


def distinct_names(names: Sequence[str]) -> dict[int, str]:
    """Names by number; labels of the same name, such as ImageNet's two cranes, get their number appended."""
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
