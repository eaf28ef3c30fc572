"""Classes of different sizes: weights of the loss, and drawing rows so that classes come equally often."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from datasets import IterableDataset
from torch import Tensor
from torch.utils.data import Sampler

from ..data import AugmentedImages, LabelledImages, seeded
from ..data.labels import MULTI, REGRESSION, SINGLE
from ..hub import plain


def label_table(data: LabelledImages, option: str) -> np.ndarray:
    """Which labels each training image has, `[images, labels]` of 0 and 1.

    Raises:
        ValueError: If the data are streamed or their labels are values.
    """
    if data.problem_type == REGRESSION:
        raise ValueError(f"{option} is for classes, and the labels are values: leave it out")
    if isinstance(data.splits["train"], IterableDataset):
        raise ValueError(f"{option} counts the labels, which --streaming does not allow: leave one out")
    labels = np.asarray(data.splits["train"]["label"][:])
    return np.eye(len(data.label_names))[labels] if data.problem_type == SINGLE else labels


def class_weights(choice: str | None, data: LabelledImages) -> Tensor | None:
    """The weight of each class in the loss, `[labels]`; None without weights.

    `balanced` is images / (classes x images of the class), as in scikit-learn; with several labels an image it is the
    weight of a present label against an absent one, images without it / images with it.

    Args:
        choice: `balanced`, or a JSON or YAML file that maps each label's name to its weight.
        data: The training data.

    Raises:
        ValueError: If the file can't be read, names other labels, or holds a weight that is no positive number.
    """
    if choice is None:
        return None
    if choice != "balanced":
        if data.problem_type == REGRESSION:
            raise ValueError("--class_weights is for classes, and the labels are values: leave it out")
        return weights_of_file(choice, data.label_names)
    table = label_table(data, "--class_weights balanced")
    counts = table.sum(axis=0)
    present = counts > 0
    rest = len(table) - counts if data.problem_type != SINGLE else np.full(len(counts), len(table) / present.sum())
    weights = np.divide(rest, counts, out=np.ones(len(counts)), where=present)
    return torch.tensor(np.where(weights > 0, weights, 1.0), dtype=torch.float32)


def weights_of_file(path: str, names: Sequence[str]) -> Tensor:
    """Reads the weights of all labels; as `class_weights`."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"--class_weights {path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise ValueError(f"--class_weights {path}: expected a mapping of label to weight, such as {names[0]}: 2.0")
    weights = {str(name): value for name, value in found.items()}
    if missing := [name for name in names if name not in weights]:
        raise ValueError(f"--class_weights {path} has no weight for {missing[0]}, one of {len(missing)} labels")
    if unknown := [name for name in weights if name not in names]:
        raise ValueError(f"--class_weights {path} names {unknown[0]}, which is no label of the data")
    for name, value in weights.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"--class_weights {path}: the weight of {name} must be a number above 0, got {value!r}")
    return torch.tensor([float(weights[name]) for name in names])


def row_weights(data: LabelledImages) -> Tensor:
    """The chance of each training row with which every class is drawn equally often, `[images]`.

    A row counts 1 / (images of its class), with several labels the largest of these. Rows without a label are a class
    of their own.
    """
    table = label_table(data, "--balanced_sampling")
    shares = 1 / np.maximum(table.sum(axis=0), 1)
    weights = (table * shares).max(axis=1)
    bare = ~table.any(axis=1)
    if bare.any():
        weights[bare] = 1 / bare.sum()
    return torch.tensor(weights, dtype=torch.float64)


class BalancedSampler(Sampler[int]):
    """Draws as many rows as there are, with replacement; the draw follows from the rows' seed and epoch.

    Args:
        rows: The training rows, whose epoch is set before each pass.
        weights: Chance of each row, `[rows]`.
    """

    def __init__(self, rows: AugmentedImages, weights: Tensor):
        self.rows = rows
        self.weights = weights

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        with seeded(self.rows.seed, self.rows.epoch):
            places = torch.rand(len(self.rows), dtype=torch.float64)
        # torch.multinomial takes no more than 2**24 rows.
        ends = self.weights.cumsum(0)
        drawn = torch.searchsorted(ends, places * ends[-1], right=True)
        yield from drawn.clamp(max=len(self.rows) - 1).tolist()


def label_sentences(problem_type: str, class_weights: str | None, balanced_sampling: bool) -> str:
    """How labels are weighed, drawn and predicted, for the model card; empty where nothing is special."""
    sentences = []
    if problem_type != SINGLE:
        sentences.append(f"Problem type: {problem_type}.")
    if class_weights is not None:
        sentences.append(f"Weights of the classes in the loss: {plain(Path(class_weights).name)}.")
    if balanced_sampling:
        sentences.append("Training images were drawn so that classes come equally often.")
    if problem_type == MULTI:
        sentences.append(
            "A label is predicted from its threshold on, which the validation images chose: `label_thresholds` in "
            "config.json."
        )
    return "".join(f" {sentence}" for sentence in sentences)
