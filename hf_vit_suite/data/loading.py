"""Labelled images from any source, as `datasets` splits with the columns `image` and `label`."""

import glob
import io
import logging
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, IterableDatasetDict, Value
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from PIL import Image

from .decoding import ImageDecodingError, decode_image

logger = logging.getLogger(__name__)

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF_NAME = {name: split for split, names in SPLIT_NAMES.items() for name in names}
# A split's name as a word of its own: `imagenet-val-0001.tar` is validation, `valuable.parquet` is not.
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_OF_NAME)})(?![a-z])")
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
            `validation` and `test` folders), a parquet or webdataset (`.tar`) file, folder or glob (whose split is a
            word of its path within), or the name of a Hub data set.
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
    elif path.is_file() or glob.has_magic(source):
        names = [str(path)] if path.is_file() else sorted(glob.glob(str(path), recursive=True))
        builder = builder_of(names, source)
        files = by_split_name(Path(os.path.commonpath([os.path.dirname(name) for name in names])), names)
    # The dot of a version is none of a file's suffix: `owner/data-v1.0` is a Hub name.
    elif path.is_absolute() or source[0] in ".~" or path.suffix[1:].isalpha() or source.count("/") > 1:
        raise FileNotFoundError(f"--dataset {source}: there is no such file or folder")
    else:
        return open_hub(source, streaming)
    options = {"drop_labels": False} if builder == "imagefolder" else {}
    # datasets takes names for patterns: unescaped, `photo[1].png` would be left out.
    data_files = {split: [glob.escape(name) for name in names] for split, names in files.items()}
    return load(builder, f"--dataset {source}", data_files=data_files, streaming=streaming, **options)


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
    """Parquet or tar files by the first split that the path within the folder names (`data/train-0001.tar`)."""
    splits: dict[str, list[str]] = {}
    for name in files:
        word = SPLIT_WORD.search(os.path.relpath(name, folder).lower())
        splits.setdefault(SPLIT_OF_NAME[word[1]] if word else "train", []).append(name)
    return splits if "train" in splits else {"train": files}


def image_files(folder: Path, needs_every_class: bool) -> list[str]:
    """The image files of class subfolders; hidden files and folders, such as `.ipynb_checkpoints`, are none."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {path: visible_images(path) for path in classes}
    if not any(files.values()):
        raise ValueError(f"--dataset {folder}: no images in class subfolders, expected {folder}/CLASS/IMAGE.png")
    if needs_every_class and (empty := [path for path in classes if not files[path]]):
        raise ValueError(f"--dataset {folder}: class folder {empty[0]} has no image: remove it or add images")
    # datasets names the class after the folder right above an image, whatever lies above that.
    if deeper := [file.parent for path, images in files.items() for file in images if file.parent != path]:
        raise ValueError(
            f"--dataset {folder}: {deeper[0]} lies deeper than a class folder, expected {folder}/CLASS/IMAGE.png: "
            "move it up, or name the folder that holds the class folders"
        )
    return [str(file) for images in files.values() for file in images]


def visible_images(folder: Path) -> list[Path]:
    """The image files under a folder of which no part is hidden."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in ImageFolder.EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


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
    """Whether an image's hash, from 0 to 1, lies from `start` up to `end`.

    An index would not do: workers and shuffling number the rows anew, so that splits would overlap.
    """

    start: float
    end: float

    def __call__(self, image: dict | None) -> bool:
        image = image or {}
        if image.get("bytes") is not None:
            key = image["bytes"]
        else:  # the class folder and the file, wherever the data set lies
            path = PurePosixPath((image.get("path") or "").split("::")[0])
            key = "/".join(path.parts[-2:]).encode()
        return self.start <= zlib.crc32(key) / 2**32 < self.end


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
