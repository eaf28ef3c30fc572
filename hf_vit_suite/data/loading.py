"""Labelled images from any source, as `datasets` splits with the columns `image` and `label`."""

import glob
import io
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import Image

from .decoding import ImageDecodingError, decode_image

logger = logging.getLogger(__name__)

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
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
    source: str,
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
            `validation` and `test` folders), a parquet or webdataset (`.tar`) file, folder or glob, or the name of a
            Hub data set.
        image_column: Column of the images; default the one of image type, or named like one.
        label_column: Column of the labels; default the one of class type, or named like one.
        validation_fraction: Share of the training images that becomes the validation split where there is none.
        test_fraction: The same for the test split.
        seed: Draws the splits.
        streaming: Read the data while it is used; labels must then be named by the source.
        strict_images: Stop at unreadable images rather than skip them.

    Returns:
        The splits; every class keeps at least one training image.

    Raises:
        ValueError: If nothing is there, columns or labels can't be found or disagree, or, with `strict_images`, an
            image is unreadable. FileNotFoundError where a path leads nowhere.
    """
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0 < fraction < 0.5:
            raise ValueError(f"{name} must be above 0 and below 0.5, got {fraction}")
    loaded = standard_splits(open_source(source, streaming), source)
    any_split = next(iter(loaded.values()))
    image_column = find_column(any_split, image_column, "image", datasets.Image, IMAGE_COLUMNS, source)
    label_column = find_column(any_split, label_column, "label", ClassLabel, LABEL_COLUMNS, source)
    columns = {split: two_columns(data, image_column, label_column) for split, data in loaded.items()}
    if streaming:
        return stream(columns, source, strict_images, {"validation": validation_fraction, "test": test_fraction})

    readable, skipped = drop_unreadable(columns, strict_images, source)
    numbered, label_names = number_labels(readable, columns, source)
    for split, fraction in (("test", test_fraction), ("validation", validation_fraction)):
        if split not in numbered:
            numbered["train"], numbered[split] = split_off(numbered["train"], fraction, seed)
    return LabelledImages(numbered, label_names, skipped, source)


def open_source(source: str, streaming: bool) -> dict[str, Dataset | IterableDataset]:
    """The source's own splits, as `datasets` opens them."""
    if source == "digits":
        digits = load_digits()
        return {"train": digits.to_iterable_dataset() if streaming else digits}
    path = Path(source).expanduser()
    if path.is_dir():
        builder, files = folder_files(path)
    elif path.is_file() or any(sign in source for sign in "*?["):
        files = {"train": sorted(glob.glob(str(path)))}
        builder = builder_of(files["train"], source)
    elif path.is_absolute() or source[0] in ".~" or path.suffix or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    else:
        return open_hub(source, streaming)
    options = {"drop_labels": False} if builder == "imagefolder" else {}
    return load(builder, f"--dataset {source}", data_files=files, streaming=streaming, **options)


def load(builder: str, named: str, **options) -> DatasetDict | IterableDatasetDict:
    """`datasets.load_dataset` whose failures are one line."""
    try:
        return datasets.load_dataset(builder, **options)
    except Exception as error:  # datasets raises many kinds, from its own to pyarrow's and tarfile's
        cause = error.__cause__ or error
        raise ValueError(f"{named} can't be read: {' '.join(str(cause).split())}") from error


def open_hub(source: str, streaming: bool) -> DatasetDict | IterableDatasetDict:
    """A data set of the Hub."""
    named = f"--dataset {source} is neither digits nor a file or folder here, and as a Hub data set it"
    return load(source, named, streaming=streaming)


def load_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, as PNG."""
    from sklearn import datasets as sklearn_datasets

    digits = sklearn_datasets.load_digits()
    names = [str(name) for name in digits.target_names]
    rows = {
        "image": [png(np.round(pixels * (255 / 16)).astype(np.uint8)) for pixels in digits.images],
        "label": digits.target.tolist(),
    }
    return Dataset.from_dict(rows, features=Features({"image": datasets.Image(), "label": ClassLabel(names=names)}))


def png(pixels: np.ndarray) -> dict:
    """8-bit pixels as an encoded image of `datasets`."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def builder_of(files: list[str], source: str) -> str:
    """The builder of parquet or webdataset files."""
    for builder, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        if files and all(name.endswith(suffix) for name in files):
            return builder
    raise ValueError(
        f"--dataset {source}: expected parquet or .tar files, or a folder of images, got {len(files)} others"
    )


def folder_files(folder: Path) -> tuple[str, dict[str, list[str]]]:
    """Builder and files by split of a folder; only folders' names make splits, never file names."""
    for builder, suffix in (("parquet", ".parquet"), ("webdataset", ".tar")):
        if names := sorted(str(path) for path in folder.rglob(f"*{suffix}")):
            return builder, by_split_name(folder, names)
    parts = {
        split: next((folder / name for name in names if (folder / name).is_dir()), None)
        for split, names in SPLIT_NAMES.items()
    }
    if parts["train"] is None:
        parts = {"train": folder}
    files = {split: image_files(part, split == "train") for split, part in parts.items() if part is not None}
    return "imagefolder", files


def by_split_name(folder: Path, files: list[str]) -> dict[str, list[str]]:
    """Parquet or tar files by the split that the path within the folder begins with (`train-0001.tar`, `val/...`)."""
    splits: dict[str, list[str]] = {}
    for name in files:
        start = os.path.relpath(name, folder).lower()
        split = next((key for key, names in SPLIT_NAMES.items() if start.startswith(names)), "train")
        splits.setdefault(split, []).append(name)
    return splits if "train" in splits else {"train": files}


def image_files(folder: Path, needs_every_class: bool) -> list[str]:
    """The image files of class subfolders."""
    suffixes = tuple(ImageFolder.EXTENSIONS)
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {
        path: [str(file) for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes] for path in classes
    }
    if not any(files.values()):
        raise ValueError(f"--dataset {folder}: no images in class subfolders, expected {folder}/CLASS/IMAGE.png")
    if needs_every_class and (empty := [path for path in classes if not files[path]]):
        raise ValueError(f"--dataset {folder}: class folder {empty[0]} has no image: remove it or add images")
    return [name for names in files.values() for name in names]


def standard_splits(loaded: dict[str, Dataset | IterableDataset], source: str) -> dict[str, Dataset | IterableDataset]:
    """The splits under the names train, validation and test; nested columns are flattened."""
    splits = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            if name in loaded and split not in splits:
                splits[split] = loaded[name] if isinstance(loaded[name], IterableDataset) else flat(loaded[name])
    if "train" not in splits:
        raise ValueError(f"--dataset {source} has no split named train, it has {', '.join(loaded)}")
    return splits


def flat(data: Dataset) -> Dataset:
    """Nested columns as columns of their own (webdataset's json); images stay whole."""
    has_nested = any(isinstance(feature, dict) for feature in data.features.values())
    return data.flatten() if has_nested else data


def find_column(
    data: Dataset | IterableDataset,
    name: str | None,
    kind: str,
    feature_type: type,
    usual: tuple[str, ...],
    source: str,
) -> str:
    """A column by the name given, by its type, or by a usual name."""
    existing = data.column_names or list(next(iter(data.take(1)), {}))
    if name is not None and name in existing:
        return name
    features = data.features or {}
    found = [column for column in existing if isinstance(features.get(column), feature_type)]
    found += [column for column in usual if column in existing]
    if name is not None or not found:
        missing = f"no column {name!r}" if name is not None else f"no column that looks like the {kind}"
        raise ValueError(f"--dataset {source} has {missing}: name one of {', '.join(existing)} by --{kind}_column")
    return found[0]


def two_columns(data: Dataset | IterableDataset, image_column: str, label_column: str) -> Dataset | IterableDataset:
    """Only `image`, undecoded, and `label`."""
    data = data.select_columns([image_column, label_column])
    renames = {old: new for old, new in ((image_column, "image"), (label_column, "label")) if old != new}
    data = data.rename_columns(renames) if renames else data
    return data.cast_column("image", UNDECODED)


def find_problem(image: dict) -> dict[str, str]:
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
        problems = checked["problem"][:]
        skipped += [problem for problem in problems if problem]
        kept = [row for row, problem in enumerate(problems) if not problem]
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
    values = {split: np.asarray(data["label"][:]) for split, data in readable.items()}
    if isinstance(feature, ClassLabel):
        names, order = feature.names, list(range(len(feature.names)))
        values = {split: numbers for split, numbers in values.items() if not (numbers == UNLABELLED).all()}
    else:
        order = sorted(set(np.asarray(complete["train"]["label"][:]).tolist()))
        names = [str(value) for value in order]
    check_classes(values["train"], order, names, source)
    number = {value: index for index, value in enumerate(order)}
    features = Features({"image": UNDECODED, "label": Value("int64")})
    numbered = {}
    for split, labels in values.items():
        if unknown := sorted(set(labels.tolist()) - set(number)):
            raise ValueError(f"--dataset {source}: the {split} split has labels that train has not: {unknown[:5]}")
        column = [number[label] for label in labels.tolist()]
        data = readable[split].remove_columns("label").add_column("label", column)
        numbered[split] = data.cast(features)
    return numbered, list(names)


def check_classes(labels: np.ndarray, order: list, names: list[str], source: str) -> None:
    """There must be two classes, and a readable training image of each."""
    if len(order) < 2:
        raise ValueError(f"--dataset {source} has {len(order)} class ({', '.join(names)}), at least 2 are needed")
    present = set(labels.tolist())
    if missing := [name for name, value in zip(names, order, strict=True) if value not in present]:
        raise ValueError(
            f"--dataset {source}: class {missing[0]} has no readable training image: remove it or mend its files"
        )


def split_off(data: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """Splits a share off, class by class; each class keeps an image."""
    random = np.random.default_rng(seed)
    labels = np.asarray(data["label"][:])
    taken: list[int] = []
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        taken += rows[: min(round(len(rows) * fraction), len(rows) - 1)].tolist()
    if not taken:  # only tiny classes: one image of the largest
        largest = np.flatnonzero(labels == np.bincount(labels).argmax())
        if len(largest) < 2:
            raise ValueError("too few images to split off a validation and a test part: at least 3 of one class")
        taken = [int(random.choice(largest))]
    kept = np.setdiff1d(np.arange(len(data)), taken)
    return data.select(kept), data.select(sorted(taken))


def stream(
    splits: dict[str, IterableDataset], source: str, strict: bool, fractions: dict[str, float]
) -> LabelledImages:
    """Streamed splits; missing ones are every so many rows of train, which train then leaves out.

    Raises:
        ValueError: If the source does not name its labels, as they can't be listed without reading everything.
    """
    feature = (splits["train"].features or {}).get("label")
    if not isinstance(feature, ClassLabel):
        raise ValueError(f"--dataset {source} does not name its labels, which --streaming needs: leave it out")
    for offset, split in enumerate(name for name in ("test", "validation") if name not in splits):
        period = max(3, round(1 / fractions[split]))
        splits[split] = splits["train"].filter(EveryNth(period, offset, True), with_indices=True)
        splits["train"] = splits["train"].filter(EveryNth(period, offset, False), with_indices=True)
    readable = {split: data.filter(IsReadable(strict), input_columns="image") for split, data in splits.items()}
    return LabelledImages(readable, list(feature.names), [], source)


@dataclass(frozen=True)
class EveryNth:
    """Picks each row whose index is `offset` modulo `period`, or each other one."""

    period: int
    offset: int
    picks: bool

    def __call__(self, row: dict, index: int) -> bool:
        return (index % self.period == self.offset) == self.picks


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
