"""Loads images from any source as `datasets` splits with the columns `image` and, if requested, `label`."""

import logging
from dataclasses import dataclass

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features, IterableDataset, Value

from .decoding import ImageDecodingError, decode_image
from .objects import Source, dataset_name
from .sources import find_column, open_source, standard_splits
from .streaming import image_number

logger = logging.getLogger(__name__)

LABEL_COLUMNS = ("label", "labels", "class", "cls", "fine_label", "target", "json.label", "json.cls")
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
UNDECODED = datasets.Image(decode=False)
UNLABELLED = -1  # the label of Hub data sets with secret test labels
MOST_NAMED = 5


@dataclass(frozen=True)
class LabelledImages:
    """Three splits of labelled images.

    Args:
        splits: "train", "validation" and "test", each with the columns `image` (undecoded) and `label` (int).
        label_names: Label names, indexed by label number.
        skipped: `file: reason` for each unreadable image; empty for streams, which skip while reading.
        source: Name of the data set.
    """

    splits: dict[str, Dataset | IterableDataset]
    label_names: list[str]
    skipped: list[str]
    source: str


def load_image_dataset(
    source: Source,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    streaming: bool = False,
    strict_images: bool = False,
) -> LabelledImages:
    """Loads labelled images and splits off missing validation and test splits from train.

    Args:
        source: `digits` (scikit-learn's, offline), a folder with one subfolder per class (optionally inside `train`,
            `validation` and `test` folders), a parquet or webdataset (`.tar`) file, folder or glob (a word in each
            file's path names its split), a folder of MNIST's IDX files, a Hub data set's name, or a data set object.
        image_column: Column of the images; default the column of image type, else one with a usual name.
        label_column: Column of the labels; default the column of class type, else one with a usual name.
        validation_fraction: Fraction of the training images for the validation split, if the source has none.
        test_fraction: Fraction of the training images for the test split, if the source has none.
        seed: Random seed of the split.
        streaming: Read rows on demand. The source must then declare its label names. Missing splits are selected from
            train by a hash of each image: their sizes only approximate the fractions, and the seed has no effect.
        strict_images: Raise an error on unreadable images instead of skipping them.

    Returns:
        The splits. Every class keeps at least one training image; declared but unused label names are kept.

    Raises:
        ValueError: If the source is empty, columns or labels can't be found or disagree, or, with `strict_images`, an
            image is unreadable.
        FileNotFoundError: If a path does not exist.
    """
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 0.5:
            raise ValueError(f"{name} must be above 0 and below 0.5, got {fraction}")
    source, opened = dataset_name(source), open_source(source, streaming)
    loaded = standard_splits(opened, source)
    any_split = next(iter(loaded.values()))
    image_column = find_column(any_split, image_column, "image", datasets.Image, IMAGE_COLUMNS, source)
    label_column = find_column(any_split, label_column, "label", ClassLabel, LABEL_COLUMNS, source)
    wanted = {"image": image_column, "label": label_column}
    columns = {split: select_columns(data, wanted) for split, data in loaded.items()}
    if streaming:
        return stream(columns, source, strict_images, {"validation": validation_fraction, "test": test_fraction})

    readable, skipped = drop_unreadable(columns, strict_images, source)
    numbered, label_names = number_labels(readable, columns, source)
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if split not in numbered:
            numbered["train"], numbered[split] = split_off(numbered["train"], fraction, seed)
    return LabelledImages(numbered, label_names, skipped, source)


def select_columns(data: Dataset | IterableDataset, wanted: dict[str, str]) -> Dataset | IterableDataset:
    """Keeps the columns of `wanted` (new name -> old name), renamed; images stay undecoded."""
    data = data.select_columns(list(wanted.values()))
    renames = {old: new for new, old in wanted.items() if old != new}
    data = data.rename_columns(renames) if renames else data
    return data.cast_column("image", UNDECODED)


@dataclass(frozen=True)
class UnlabelledImages:
    """Images for pretraining.

    Args:
        rows: Training images in one column `image` (undecoded).
        skipped: `file: reason` for each unreadable image; empty for streams, which skip while reading.
    """

    rows: Dataset | IterableDataset
    skipped: list[str]


def load_unlabelled_images(
    source: Source, *, image_column: str | None = None, streaming: bool = False, strict_images: bool = False
) -> UnlabelledImages:
    """Loads a source's training images, labelled or not.

    Args:
        source: As in `load_image_dataset`, or any folder with images at any depth. If the source has a `train` split
            or folder, only that is read, which excludes test images.
        image_column: Column of the images; default the column of image type, else one with a usual name.
        streaming: Read rows on demand.
        strict_images: Raise an error on unreadable images instead of skipping them.

    Raises:
        ValueError: If the source is empty, the column can't be found, no image is readable, or, with `strict_images`,
            an image is unreadable.
        FileNotFoundError: If a path does not exist.
    """
    source, opened = dataset_name(source), open_source(source, streaming, needs=None)
    loaded = standard_splits(opened, source)
    column = find_column(loaded["train"], image_column, "image", datasets.Image, IMAGE_COLUMNS, source)
    rows = select_columns(loaded["train"], {"image": column})
    if streaming:
        return UnlabelledImages(rows.filter(IsReadable(strict_images), input_columns="image"), [])
    readable, skipped = drop_unreadable({"train": rows}, strict_images, source)
    if not len(readable["train"]):
        raise ValueError(f"--dataset {source} has no readable image")
    return UnlabelledImages(readable["train"], skipped)


def find_problem(image: dict | None) -> dict[str, str]:
    """Returns why an image can't be decoded, or an empty string."""
    try:
        decode_image(image)
    except ImageDecodingError as error:
        return {"problem": str(error)}
    return {"problem": ""}


def drop_unreadable(splits: dict[str, Dataset], strict: bool, source: str) -> tuple[dict[str, Dataset], list[str]]:
    """Decodes every image once and drops the unreadable ones."""
    readable, skipped = {}, []
    for split, data in splits.items():
        checked = data.map(
            find_problem, input_columns="image", remove_columns=data.column_names, desc=f"check {split}"
        )
        # datasets caches the result across runs, but a file may be repaired in between: check bad images again.
        suspects = [row for row, problem in enumerate(checked["problem"][:]) if problem]
        problems = {row: find_problem(data[row]["image"])["problem"] for row in suspects}
        skipped += [f"{problem} ({split} row {row})" for row, problem in problems.items() if problem]
        kept = [row for row in range(len(data)) if not problems.get(row)]
        readable[split] = data if len(kept) == len(data) else data.select(kept)
    if skipped:
        named = "; ".join(skipped[:MOST_NAMED]) + ("; ..." if len(skipped) > MOST_NAMED else "")
        if strict:
            raise ValueError(f"--dataset {source}: {len(skipped)} unreadable images: {named}")
        logger.warning("skipped %d unreadable images: %s", len(skipped), named)
    return readable, skipped


def number_labels(
    readable: dict[str, Dataset], complete: dict[str, Dataset], source: str
) -> tuple[dict[str, Dataset], list[str]]:
    """Maps labels to consecutive numbers from 0, the same in every split.

    ClassLabel columns keep their declared order; other labels are sorted, numerically if all are decimal.
    """
    feature = complete["train"].features["label"]
    if not isinstance(feature, ClassLabel | Value):
        raise ValueError(f"--dataset {source}: labels are {feature}, expected a number or a string for each image")
    labels = {split: label_values(data) for split, data in readable.items()}
    declared = set(label_values(complete["train"]))
    if isinstance(feature, ClassLabel):
        name_of = dict(enumerate(feature.names))
        labels = {split: values for split, values in labels.items() if split == "train" or set(values) != {UNLABELLED}}
    else:
        found = declared - {None}
        order = sorted(found, key=int if all(str(value).isdecimal() for value in found) else None)
        name_of = {value: str(value) for value in order}
    check_labels(labels, declared, name_of, source)
    number = {value: index for index, value in enumerate(name_of)}
    features = Features({"image": UNDECODED, "label": Value("int64")})
    numbered = {}
    for split, values in labels.items():
        data = readable[split].remove_columns("label").add_column("label", [number[value] for value in values])
        numbered[split] = data.cast(features)
    return numbered, list(name_of.values())


def label_values(data: Dataset) -> list:
    """Returns a split's labels, with the bytes of webdataset's `.label` files decoded."""
    return [value.decode().strip() if isinstance(value, bytes) else value for value in data["label"][:]]


def check_labels(labels: dict[str, list], declared: set, name_of: dict, source: str) -> None:
    """Checks that every image is labelled, every label has a readable training image, and train has 2 or more labels.

    Args:
        labels: Labels of the readable images by split.
        declared: Labels of all training images, including unreadable ones.
        name_of: Names by label.
        source: Name of the data set, for errors.
    """
    for split, values in labels.items():
        if not values and split != "train":
            raise ValueError(
                f"--dataset {source}: the {split} split has no readable image: remove it or repair its files"
            )
        bare = [row for row, value in enumerate(values) if value in (None, UNLABELLED) and value not in name_of]
        if bare:
            raise ValueError(f"--dataset {source}: {len(bare)} images of the {split} split have no label: remove them")
    present = set(labels["train"])
    used = [name for value, name in name_of.items() if value in declared]
    if len(used) < 2:
        raise ValueError(f"--dataset {source} has {len(used)} class ({', '.join(used)}), at least 2 are needed")
    if lost := [name for value, name in name_of.items() if value in declared - present]:
        raise ValueError(
            f"--dataset {source}: class {lost[0]} has no readable training image: remove it or repair its files"
        )
    for split, values in labels.items():
        if unknown := sorted(str(name_of.get(value, value)) for value in set(values) - present):
            raise ValueError(
                f"--dataset {source}: the {split} split has labels that train has not: {unknown[:MOST_NAMED]}"
            )


def split_off(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits off a fraction of each class; classes too small for that are pooled. Each class keeps an image."""
    random = np.random.default_rng(seed)
    labels = np.asarray(data["label"][:])
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


def stream(
    splits: dict[str, IterableDataset], source: str, strict: bool, fractions: dict[str, float]
) -> LabelledImages:
    """Builds streamed splits; missing ones are fractions of train, which then excludes those images.

    Raises:
        ValueError: If the source does not declare its labels: listing them would read the whole stream.
    """
    feature = (splits["train"].features or {}).get("label")
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"--dataset {source} does not name its labels, which --streaming needs: leave it out")
    whole, start = splits["train"], 0.0
    for split in ("test", "validation"):
        if split not in splits:
            splits[split] = whole.filter(IsInShare(start, start + fractions[split]), input_columns="image")
            start += fractions[split]
    splits["train"] = whole.filter(IsInShare(start, 1.0), input_columns="image")
    readable = {split: data.filter(IsReadable(strict), input_columns="image") for split, data in splits.items()}
    return LabelledImages(readable, list(feature.names), [], source)


@dataclass(frozen=True)
class IsInShare:
    """Whether an image's hash, scaled to [0, 1), lies in [`start`, `end`)."""

    start: float
    end: float

    def __call__(self, image: dict | None) -> bool:
        return self.start <= image_number(image) / 2**32 < self.end


@dataclass(frozen=True)
class IsReadable:
    """Whether a streamed image can be decoded; if not, logs a warning, or raises with `strict`."""

    strict: bool

    def __call__(self, image: dict) -> bool:
        try:
            decode_image(image)
        except ImageDecodingError as error:
            if self.strict:
                raise
            logger.warning("skipped: %s", error)
            return False
        return True
