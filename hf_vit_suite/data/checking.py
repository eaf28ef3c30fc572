"""Checks a data set before training: every image is decoded, in parallel, and what is odd is reported."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .captions import clean_captions
from .columns import class_names
from .decoding import file_bytes, image_name, is_empty, open_image
from .labels import UNLABELLED, as_list, label_values, list_parser
from .layout import Needs
from .loading import parse_split_names
from .objects import Source, dataset_name
from .reading import describe_reading
from .request import Request
from .rows import find_problem
from .sources import open_source

Annotations = Literal["labels", "captions", "none"]

# A side of fewer pixels is tiny: two patches of the usual 16 do not fit. Aspect ratios beyond the second are odd.
TINY_SIDE = 32
ODD_ASPECT = 4
IMAGES_AT_A_TIME = 32


@dataclass(frozen=True)
class Measured:
    """What decoding an image told.

    Args:
        name: Its file, or its row.
        problem: Why it can't be decoded; empty if it can.
        is_empty: Whether there is no byte of it.
        width: In pixels, as stored; 0 if it can't be decoded.
        height: In pixels.
        digest: Of the encoded bytes; equal for copies.
    """

    name: str
    problem: str = ""
    is_empty: bool = False
    width: int = 0
    height: int = 0
    digest: str = ""


@dataclass(frozen=True)
class MeasuredImages(torch.utils.data.Dataset):
    """Measures the images of a split when they are read.

    Args:
        rows: Rows with a column `image` (undecoded).
        split: Its name.
    """

    rows: Dataset
    split: str

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Measured:
        image = self.rows[number]["image"]
        name = image_name(image) if (image or {}).get("path") else f"{self.split} row {number}"
        if problem := find_problem(image):
            return Measured(name, problem, is_empty=image is None or is_empty(image))
        with open_image(image) as opened:
            width, height = opened.size
        return Measured(name, width=width, height=height, digest=hashlib.sha256(file_bytes(image)).hexdigest())


def check(
    dataset: Source,
    *,
    annotations: Annotations = "labels",
    image_column: str | None = None,
    label_column: str | None = None,
    text_column: str | None = None,
    layout: str | None = None,
    split_names: Sequence[str] | Mapping[str, str] | None = None,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Decodes every image of a data set in parallel and reports what a person would want to know before training.

    Args:
        dataset: As in `finetune`, or as in `pretrain`.
        annotations: What the images are to have: `labels`, `captions` or `none`.
        image_column: As in `load_image_dataset`.
        label_column: As in `load_image_dataset`.
        text_column: As in `load_captioned_images`.
        layout: As in `load_image_dataset`.
        split_names: As in `load_image_dataset`.
        num_workers: Processes that decode; default one a core, 0 is this process.

    Returns:
        `summary` and `ignored`, as metrics.json has them. `splits`, each with its number of `images`; lists of names
        `unreadable` (with the reason), `empty`, `tiny` (a side below 32 pixels), `odd_aspect` (a side over 4 times
        the other) and `unlabelled`; `width` and `height` (least, median, most); `classes` (images by label).
        `undescribed`, images to which a table gives nothing. `duplicates`, groups of images of equal bytes, of which
        `across_splits` and `other_labels` would spoil a measurement.

    Raises:
        ValueError: If the source can't be read or can be read in several ways, or no annotations have that name.
        FileNotFoundError: If a path does not exist.
    """
    if annotations not in get_args(Annotations):
        raise ValueError(f"annotations must be one of {', '.join(get_args(Annotations))}, got {annotations!r}")
    needs = None if annotations == "none" else annotations
    column = {"labels": label_column, "captions": text_column, "none": None}[annotations]
    name = dataset_name(dataset)
    request = Request(name, needs, False, layout, parse_split_names(split_names), image_column, column)
    opened = open_source(dataset, request)
    reading = describe_reading(name, opened.splits, opened.layout, opened.ignored)
    workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    splits: dict[str, dict] = {}
    copies: dict[str, list[dict]] = {}
    for split, rows in opened.splits.items():
        measured, values = measure(rows, split, workers), annotations_of(rows, needs, name)
        splits[split] = split_report(measured, values, annotations)
        for image, found in zip(measured, values, strict=True):
            if image.digest:
                copies.setdefault(image.digest, []).append({"split": split, "image": image.name, annotations: found})
    groups = [group for group in copies.values() if len(group) > 1]
    return {
        **reading.report(),
        "splits": splits,
        "undescribed": opened.undescribed,
        "duplicates": groups,
        "across_splits": [group for group in groups if len({image["split"] for image in group}) > 1],
        "other_labels": [group for group in groups if annotations == "labels" and differ(group)],
    }


def measure(rows: Dataset, split: str, workers: int) -> list[Measured]:
    """Measures the images of a split, in order."""
    loader = DataLoader(MeasuredImages(rows, split), batch_size=IMAGES_AT_A_TIME, num_workers=workers, collate_fn=list)
    return [image for batch in tqdm(loader, desc=f"check {split}", disable=None) for image in batch]


def annotations_of(rows: Dataset, needs: Needs, source: str) -> list[list[str]]:
    """The labels or captions of each image as texts; empty lists where there are none."""
    if needs is None:
        return [[] for _ in range(len(rows))]
    if needs == "captions":
        return [clean_captions(value)["text"] for value in rows["text"][:]]
    values, names = label_values(rows), class_names(rows.features["label"])
    parse = list_parser([value for value in values if value is not None], None, source)
    found = [as_list(parse(value)) for value in values]
    return [
        [names[part] if names else str(part) for part in parts if part not in (None, UNLABELLED if names else None)]
        for parts in found
    ]


def differ(group: Sequence[Mapping]) -> bool:
    """Whether images of equal bytes have different labels."""
    return len({tuple(sorted(image["labels"])) for image in group}) > 1


def split_report(
    measured: Sequence[Measured], values: Sequence[list[str]], annotations: Annotations
) -> dict[str, Any]:
    """What `check` says of a split."""
    readable = [image for image in measured if not image.problem]
    short = [(image.name, *sorted((image.width, image.height))) for image in readable]
    bare = [image.name for image, found in zip(measured, values, strict=True) if not found]
    report: dict[str, Any] = {
        "images": len(measured),
        "unreadable": [image.problem for image in measured if image.problem and not image.is_empty],
        "empty": [image.name for image in measured if image.is_empty],
        "tiny": [name for name, least, _ in short if least < TINY_SIDE],
        "odd_aspect": [name for name, least, most in short if most > ODD_ASPECT * least],
        "unlabelled": bare if annotations != "none" else [],
        "width": spread([image.width for image in readable]),
        "height": spread([image.height for image in readable]),
    }
    if annotations == "labels":
        counts = Counter(label for found in values for label in found)
        report["classes"] = dict(sorted(counts.items()))
    return report


def spread(numbers: Sequence[int]) -> list[int]:
    """The least, median and most of some numbers; empty without any."""
    return [min(numbers), int(np.median(numbers)), max(numbers)] if numbers else []
