"""Images from any source, as `datasets` splits with the columns `image` and, where they are asked for, `label`."""

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
UNLABELLED = -1  # what Hub data sets put where test labels are secret
MOST_NAMED = 5


@dataclass(frozen=True)
class LabelledImages:
    """Three splits of labelled images.

    Args:
        splits: "train", "validation" and "test", each with the columns `image` (undecoded) and `label` (int).
        label_names: Names in the order of the label numbers.
        skipped: `file: reason` for each unreadable image; empty for streams, which skip while they are read.
        source: Where they come from.
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
    """Loads labelled images and makes the splits that are missing.

    Args:
        source: `digits` (scikit-learn's, offline), a folder with a subfolder a class (which may stand in `train`,
            `validation` and `test` folders), a parquet or webdataset (`.tar`) file, folder or glob (whose split is a
            word of its path within), a folder of MNIST's IDX files, or the name of a Hub data set.
        image_column: Column of the images; default the one of image type, or named like one.
        label_column: Column of the labels; default the one of class type, or named like one.
        validation_fraction: Share of the training images that becomes the validation split where there is none.
        test_fraction: The same for the test split.
        seed: Draws the splits.
        streaming: Read the data while it is used; labels must then be named by the source, and missing splits take
            train's images by a hash, so that their shares are near the fractions and the seed has no part in them.
        strict_images: Stop at unreadable images rather than skip them.

    Returns:
        The splits; every class keeps at least one training image. Names that a source declares and never uses stay.

    Raises:
        ValueError: If nothing is there, columns or labels can't be found or disagree, or, with `strict_images`, an
            image is unreadable. FileNotFoundError where a path leads nowhere.
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
    """Only the wanted columns, by the names they get; the image undecoded."""
    data = data.select_columns(list(wanted.values()))
    renames = {old: new for new, old in wanted.items() if old != new}
    data = data.rename_columns(renames) if renames else data
    return data.cast_column("image", UNDECODED)


@dataclass(frozen=True)
class UnlabelledImages:
    """Images to pretrain on.

    Args:
        rows: The training images, one column `image` (undecoded).
        skipped: `file: reason` for each unreadable image; empty for streams, which skip while they are read.
    """

    rows: Dataset | IterableDataset
    skipped: list[str]


def load_unlabelled_images(
    source: Source, *, image_column: str | None = None, streaming: bool = False, strict_images: bool = False
) -> UnlabelledImages:
    """Loads a source's training images, labelled or not.

    Args:
        source: As in `load_image_dataset`, or any folder with images in it or below. Where there is a `train` split or
            folder it alone is read, so that test images stay unseen.
        image_column: Column of the images; default the one of image type, or named like one.
        streaming: Read the data while it is used.
        strict_images: Stop at unreadable images rather than skip them.

    Raises:
        ValueError: If nothing is there, the column can't be found or no image is readable, or, with `strict_images`,
            one is not. FileNotFoundError where a path leads nowhere.
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
    """What is wrong with an image, or nothing."""
    try:
        decode_image(image)
    except ImageDecodingError as error:
        return {"problem": str(error)}
    return {"problem": ""}


def drop_unreadable(splits: dict[str, Dataset], strict: bool, source: str) -> tuple[dict[str, Dataset], list[str]]:
    """Decodes every image once and leaves out those that can't be."""
    readable, skipped = {}, []
    for split, data in splits.items():
        checked = data.map(
            find_problem, input_columns="image", remove_columns=data.column_names, desc=f"check {split}"
        )
        # datasets keeps the outcome for the next run, by when a file may have been mended: what was bad is read again.
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
    """Labels as numbers from 0 in the order of their names, the same in every split."""
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
    """A split's labels; webdataset gives those of `.label` files as bytes."""
    return [value.decode().strip() if isinstance(value, bytes) else value for value in data["label"][:]]


def check_labels(labels: dict[str, list], declared: set, name_of: dict, source: str) -> None:
    """Each image has a label that readable training images have too, of which there are two at least.

    Args:
        labels: Labels of the readable images by split.
        declared: Labels of all training images, the unreadable ones too.
        name_of: Names of the known labels.
        source: Named in errors.
    """
    for split, values in labels.items():
        if not values and split != "train":
            raise ValueError(
                f"--dataset {source}: the {split} split has no readable image: remove it or mend its files"
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
            f"--dataset {source}: class {lost[0]} has no readable training image: remove it or mend its files"
        )
    for split, values in labels.items():
        if unknown := sorted(str(name_of.get(value, value)) for value in set(values) - present):
            raise ValueError(
                f"--dataset {source}: the {split} split has labels that train has not: {unknown[:MOST_NAMED]}"
            )


def split_off(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits a share off, class by class; classes too small for that give theirs together, and each keeps an image."""
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
    """Streamed splits; missing ones are shares of train, which train then leaves out.

    Raises:
        ValueError: If the source does not name its labels, as they can't be listed without reading everything.
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
    """Whether an image's hash, from 0 to 1, lies from `start` up to `end`."""

    start: float
    end: float

    def __call__(self, image: dict | None) -> bool:
        return self.start <= image_number(image) / 2**32 < self.end


@dataclass(frozen=True)
class IsReadable:
    """Whether an image of a stream can be decoded; says so where it can't, or stops."""

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
