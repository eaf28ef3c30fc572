"""Loads images from any source as `datasets` splits with the columns `image` and, if requested, `label`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import ClassLabel, Dataset, IterableDataset

from .labels import MULTI, REGRESSION, SINGLE, UNLABELLED, number_labels
from .layout import SPLIT_NAMES, counted
from .objects import Source, dataset_name
from .reading import Reading, describe_reading
from .request import Opened, Request
from .rows import first_named
from .sources import open_source
from .streaming import image_number

logger = logging.getLogger(__name__)

PROBLEM_TYPES = (SINGLE, MULTI, REGRESSION)


@dataclass(frozen=True)
class LabelledImages:
    """Three splits of labelled images.

    Args:
        splits: "train", "validation" and "test", each with the columns `image` (undecoded) and `label` (int).
        label_names: Label names, indexed by label number.
        skipped: `file: reason` for each image that the source leaves without a label.
        source: Name of the data set.
        problem_type: As in transformers' configs: `single_label_classification`, `multi_label_classification` (labels
            are then lists of 0.0 and 1.0, one per label name) or `regression` (lists of numbers, one per label name).
        reading: What was understood of the source.
        strict_images: Whether an unreadable image is an error when it is read, or is skipped.
    """

    splits: dict[str, Dataset | IterableDataset]
    label_names: list[str]
    skipped: list[str]
    source: str
    problem_type: str = SINGLE
    reading: Reading = field(default_factory=Reading)
    strict_images: bool = False


def load_image_dataset(
    source: Source,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    problem_type: str | None = None,
    layout: str | None = None,
    split_names: Sequence[str] | Mapping[str, str] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    streaming: bool = False,
    strict_images: bool = False,
) -> LabelledImages:
    """Loads labelled images and splits off missing validation and test splits from train.

    Args:
        source: `digits` (scikit-learn's, offline), a folder with one subfolder per class (optionally inside `train`,
            `validation` and `test` folders), a folder of images with metadata.csv (.tsv, .jsonl, .parquet), such a
            table, a parquet or webdataset (`.tar`) file, folder or glob (a word in each file's path names its split),
            a folder of MNIST's IDX files, a Hub data set's name, or a data set object.
        image_column: Column of the images, or of their file names in a table; default found by type and name.
        label_column: Column of the labels, or several with commas between; default found by type and name.
        problem_type: As in transformers' configs; default found from the labels: lists are several labels an image.
        layout: How a folder is read where that is not clear: one of `class_folders` (the first folder is the class),
            `leaf_folders` (the path of folders is), `metadata`, `parquet`, `webdataset`, `idx`.
        split_names: The source's name of each split, such as `["train=Train", "test=Holdout"]` or a mapping; default
            the usual names.
        validation_fraction: Fraction of the training images for the validation split, if the source has none.
        test_fraction: Fraction of the training images for the test split, if the source has none.
        seed: Random seed of the split.
        streaming: Read rows on demand. The source must then declare its label names. Missing splits are selected from
            train by a hash of each image: their sizes only approximate the fractions, and the seed has no effect.
        strict_images: Raise an error on images that a table leaves without a label and, when they are read, on
            unreadable images, instead of skipping them. No image is decoded here.

    Returns:
        The splits. Every class keeps at least one training image; declared but unused label names are kept.

    Raises:
        ValueError: If the source is empty or can be read in several ways, columns or labels can't be found or
            disagree, or, with `strict_images`, an image has no label.
        FileNotFoundError: If a path does not exist.
    """
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 0.5:
            raise ValueError(f"{name} must be above 0 and below 0.5, got {fraction}")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, got {problem_type}")
    name = dataset_name(source)
    names = parse_split_names(split_names)
    request = Request(name, "labels", streaming, layout, names, image_column, label_column, problem_type)
    opened = open_source(source, request)
    if streaming:
        fractions = {"validation": validation_fraction, "test": test_fraction}
        return stream(opened, name, strict_images, fractions, problem_type)
    skipped = refuse_or_name(opened.undescribed, "has no label", strict_images, name)
    numbered = number_labels(opened.splits, name, problem_type, opened.columns)
    splits = numbered.splits
    what = counted(len(numbered.names), {SINGLE: "class", MULTI: "label", REGRESSION: "target"}[numbered.problem_type])
    reading = describe_reading(name, splits, opened.layout, opened.ignored, what)
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if split not in splits:
            splits["train"], splits[split] = split_off(splits["train"], fraction, seed)
    return LabelledImages(splits, numbered.names, skipped, name, numbered.problem_type, reading, strict_images)


def parse_split_names(names: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Reads `["train=Train", "test=Holdout"]`.

    Raises:
        ValueError: If a part is no split and name.
    """
    if names is None:
        return {}
    pairs = names.items() if isinstance(names, Mapping) else (name.partition("=")[::2] for name in names)
    found: dict[str, str] = {}
    for split, name in pairs:
        if split not in SPLIT_NAMES or not name:
            raise ValueError(f"--split_names must be train=NAME, validation=NAME, test=NAME, got {split}={name}")
        if split in found or name in found.values():
            raise ValueError(f"--split_names gives {split if split in found else name} twice: each split has one name")
        found[split] = name
    if found and "train" not in found:
        raise ValueError("--split_names must name the train split, such as train=NAME")
    return found


def refuse_or_name(images: Sequence[str], lack: str, strict: bool, source: str) -> list[str]:
    """Returns a line for each image that lacks something, and logs them together.

    Raises:
        ValueError: With `strict`, if there is one.
    """
    lines = [f"{image} {lack}" for image in images]
    if lines:
        summary = first_named(lines)
        without = lack.replace("has no", "without a")
        if strict:
            raise ValueError(f"--dataset {source}: {len(lines)} images {without}: {summary}")
        logger.warning("skipped %d images %s: %s", len(lines), without, summary)
    return lines


@dataclass(frozen=True)
class UnlabelledImages:
    """Images for pretraining.

    Args:
        rows: Training images in one column `image` (undecoded).
        strict_images: Whether an unreadable image is an error when it is read, or is skipped.
        reading: What was understood of the source.
        skipped: `file: reason` for each image that is left out before training: none, as no image is decoded yet.
    """

    rows: Dataset | IterableDataset
    strict_images: bool = False
    reading: Reading = field(default_factory=Reading)
    skipped: list[str] = field(default_factory=list)


def load_unlabelled_images(
    source: Source,
    *,
    image_column: str | None = None,
    layout: str | None = None,
    split_names: Sequence[str] | Mapping[str, str] | None = None,
    streaming: bool = False,
    strict_images: bool = False,
) -> UnlabelledImages:
    """Loads a source's training images, labelled or not.

    Args:
        source: As in `load_image_dataset`, or any folder with images at any depth. If the source has a `train` split
            or folder, only that is read, which excludes test images.
        image_column: Column of the images; default found by type and name.
        layout: How a folder is read where that is not clear: `images` (all images below), `parquet`, `webdataset` or
            `idx`.
        split_names: As in `load_image_dataset`; of these train is read.
        streaming: Read rows on demand.
        strict_images: Raise an error on unreadable images, when they are read, instead of skipping them.

    Raises:
        ValueError: If the source is empty or can be read in several ways, or the column can't be found.
        FileNotFoundError: If a path does not exist.
    """
    name = dataset_name(source)
    request = Request(name, None, streaming, layout, parse_split_names(split_names), image_column)
    opened = open_source(source, request)
    rows = opened.only("train")
    reading = describe_reading(name, rows, opened.layout, opened.ignored)
    return UnlabelledImages(rows["train"], strict_images, reading)


def split_off(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off a fraction of each class; classes too small for that are pooled. Each class keeps an image.

    Of several labels an image counts for its rarest; numbers to regress are one class.
    """
    random = np.random.default_rng(seed)
    labels = strata(data)
    taken: list[int] = []
    spare: list[int] = []
    tiny = 0
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label)).tolist()
        if share := round(len(rows) * fraction):
            taken += rows[:share]
        else:
            spare += rows[1:]
            tiny += len(rows)
    if not taken and not spare:
        raise ValueError("too few images to split off a validation and a test part: at least 3 of one class")
    share = max(round(tiny * fraction), 0 if taken else 1)
    taken += random.permutation(spare)[:share].astype(int).tolist()
    kept = np.setdiff1d(np.arange(len(data)), taken)
    return data.select(kept), data.select(sorted(taken))


def strata(data: Dataset) -> np.ndarray:
    """The class by which each row is drawn, `[rows]`."""
    labels = np.asarray(data["label"][:])
    if labels.ndim == 1:
        return labels
    if not np.isin(labels, (0, 1)).all() or labels.shape[1] == 1:
        return np.zeros(len(labels), int)
    counts = labels.sum(axis=0)
    rarest = np.where(labels > 0, counts, np.inf).argmin(axis=1)
    return np.where(labels.any(axis=1), rarest, labels.shape[1])


def stream(
    opened: Opened, source: str, strict: bool, fractions: dict[str, float], problem_type: str | None
) -> LabelledImages:
    """Builds streamed splits; missing ones are fractions of train, which then excludes those images.

    Raises:
        ValueError: If the source does not declare its labels: listing them would read the whole stream.
    """
    splits = dict(opened.splits)
    feature = (splits["train"].features or {}).get("label")
    if problem_type not in (None, SINGLE) or not isinstance(feature, ClassLabel):
        raise ValueError(f"--dataset {source} does not name one label an image, which --streaming needs: leave it out")
    for split in [split for split in splits if split != "train"]:
        if (other := (splits[split].features or {}).get("label")) != feature:
            raise ValueError(f"--dataset {source}: labels are {feature} in train but {other} in {split}")
        if next((row["label"] for row in splits[split].take(1)), None) == UNLABELLED:
            logger.warning("--dataset %s: the %s split has no labels and is left out", source, split)
            del splits[split]
    reading = describe_reading(source, splits, opened.layout, opened.ignored, counted(len(feature.names), "class"))
    whole, start = splits["train"], 0.0
    for split in ("test", "validation"):
        if split not in splits:
            splits[split] = whole.filter(IsInShare(start, start + fractions[split]), input_columns="image")
            start += fractions[split]
    splits["train"] = whole.filter(IsInShare(start, 1.0), input_columns="image")
    labelled = {split: data.filter(IsLabelled(source, split), input_columns="label") for split, data in splits.items()}
    return LabelledImages(labelled, list(feature.names), [], source, SINGLE, reading, strict)


@dataclass(frozen=True)
class IsInShare:
    """Whether an image's hash, scaled to [0, 1), lies in [`start`, `end`)."""

    start: float
    end: float

    def __call__(self, image: dict | None) -> bool:
        return self.start <= image_number(image) / 2**32 < self.end


@dataclass(frozen=True)
class IsLabelled:
    """Raises an error on a streamed image without a label, as training on it would fail later or in silence."""

    source: str
    split: str

    def __call__(self, label: int | None) -> bool:
        if label is None or label == UNLABELLED:
            raise ValueError(f"--dataset {self.source}: an image of the {self.split} split has no label: remove it")
        return True
