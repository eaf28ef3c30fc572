"""Images with captions from any source, and their texts as token ids."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import datasets
import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from .decoding import decode_image, file_bytes
from .folders import is_image, visible_files
from .loading import (
    IMAGE_COLUMNS,
    MOST_NAMED,
    UNDECODED,
    IsReadable,
    LabelledImages,
    drop_unreadable,
    select_columns,
)
from .objects import Source, dataset_name
from .sources import find_column, local_path, open_source, standard_splits

logger = logging.getLogger(__name__)

TEXT_COLUMNS = ("text", "caption", "captions", "txt", "sentences", "json.caption", "json.text", "json.captions")
CAPTIONED = Features({"image": UNDECODED, "text": List(Value("string"))})
TEXTS_AT_A_TIME = 1000


@dataclass(frozen=True)
class CaptionedImages:
    """Images of a split with their captions.

    Args:
        rows: The columns `image` (undecoded) and `text`, a list of captions, none of them empty.
        skipped: `file: reason` for each image that is unreadable or has no caption; empty for streams, which skip
            while they are read.
    """

    rows: Dataset | IterableDataset
    skipped: list[str]


def load_captioned_images(
    source: Source,
    *,
    split: str = "train",
    image_column: str | None = None,
    text_column: str | None = None,
    streaming: bool = False,
    strict_images: bool = False,
    one_row_an_image: bool = True,
) -> CaptionedImages:
    """Loads images with captions.

    Args:
        source: A folder of images with a metadata file (metadata.csv, .jsonl or .parquet with the columns `file_name`
            and `text`), a parquet or webdataset (`.tar`) file, folder or glob, or the name of a Hub data set.
        split: `train`, `validation` or `test`; a source without splits is `train`.
        image_column: Column of the images; default the one of image type, or named like one.
        text_column: Column of the captions, each a string or a list of them; default one with a usual name.
        streaming: Read the data while it is used.
        strict_images: Stop at unreadable images and at images without a caption rather than skip them.
        one_row_an_image: Gather the captions of rows that repeat an image, as COCO and Flickr30k are often given with
            a row a caption. Streams keep their rows.

    Raises:
        ValueError: If nothing is there, the split or the columns can't be found or nothing is left, or, with
            `strict_images`, a row is bad. FileNotFoundError where a path leads nowhere.
    """
    source, opened = dataset_name(source), open_source(source, streaming, needs="captions")
    loaded = standard_splits(opened, source)
    if split not in loaded:
        raise ValueError(f"--dataset {source} has no {split} split, it has {', '.join(loaded)}")
    data = loaded[split]
    image_column = find_column(data, image_column, "image", datasets.Image, IMAGE_COLUMNS, source)
    text_column = find_column(data, text_column, "text", None, TEXT_COLUMNS, source)
    rows = select_columns(data, {"image": image_column, "text": text_column})
    if streaming:
        rows = rows.filter(IsReadable(strict_images), input_columns="image")
        rows = rows.map(clean_captions, input_columns="text", features=CAPTIONED)
        return CaptionedImages(rows.filter(bool, input_columns="text"), [])
    rows = rows.map(clean_captions, input_columns="text", desc="captions").cast(CAPTIONED)
    readable, skipped = drop_unreadable({split: rows}, strict_images, source)
    described, bare = drop_bare(readable[split], undescribed_images(source, loaded), strict_images, source)
    if not len(described):
        raise ValueError(f"--dataset {source} has no readable image with a caption in its {split} split")
    return CaptionedImages(gather_captions(described) if one_row_an_image else described, skipped + bare)


def gather_captions(rows: Dataset) -> Dataset:
    """One row for each image, the same bytes or a file of the same bytes, with the captions of all its rows."""
    digests = rows.map(
        lambda image: {"digest": hashlib.sha256(file_bytes(image)).digest()},
        input_columns="image",
        remove_columns=rows.column_names,
        desc="compare images",
    )["digest"]
    row_of: dict[bytes, int] = {}
    captions: dict[int, list[str]] = {}
    for number, (digest, texts) in enumerate(zip(digests, rows["text"], strict=True)):
        captions.setdefault(row_of.setdefault(digest, number), []).extend(texts)
    if len(captions) == len(rows):
        return rows
    logger.warning("%d rows show %d images: the captions of an image are taken together", len(rows), len(captions))
    images = rows.select(list(captions)).remove_columns("text")
    return images.add_column("text", list(captions.values())).cast(CAPTIONED)


def clean_captions(text: str | bytes | Sequence[str | bytes] | None) -> dict[str, list[str]]:
    """Whatever a row has for its caption as a list of captions, without empty ones."""
    captions = text if isinstance(text, list | tuple) else [text]
    decoded = [caption.decode(errors="replace") if isinstance(caption, bytes) else caption for caption in captions]
    return {"text": [caption.strip() for caption in decoded if caption and caption.strip()]}


def undescribed_images(source: str, loaded: dict[str, Dataset]) -> list[str]:
    """Images of a folder that its metadata files leave out, which `datasets` passes over."""
    folder = local_path(source)
    images = {str(path) for path in visible_files(folder) if is_image(path)} if folder.is_dir() else set()
    if not images:
        return []
    for data in loaded.values():
        column = find_column(data, None, "image", datasets.Image, IMAGE_COLUMNS, source)
        images -= {image["path"] for image in data.cast_column(column, UNDECODED)[column]}
    return sorted(images)


def drop_bare(rows: Dataset, undescribed: list[str], strict: bool, source: str) -> tuple[Dataset, list[str]]:
    """Leaves out the images that have no caption, and names them and those that never had a row."""
    counts = [len(captions) for captions in rows["text"][:]]
    bare = [rows[number]["image"].get("path") or f"row {number}" for number, count in enumerate(counts) if not count]
    names = [f"{name} has no caption" for name in bare + undescribed]
    if not names:
        return rows, []
    named = "; ".join(names[:MOST_NAMED]) + ("; ..." if len(names) > MOST_NAMED else "")
    if strict:
        raise ValueError(f"--dataset {source}: {len(names)} images without a caption: {named}")
    logger.warning("skipped %d images without a caption: %s", len(names), named)
    return rows.select([number for number, count in enumerate(counts) if count]), names


def captions_of_labels(
    data: LabelledImages, split: str, names: Sequence[str], templates: Sequence[str]
) -> CaptionedImages:
    """Labelled images with their label's name in each template as captions.

    Args:
        data: Not streamed.
        split: `train`, `validation` or `test`.
        names: The labels' names by number.
        templates: Captions in which `{}` stands for the name.
    """
    captions = [[template.replace("{}", name) for template in templates] for name in names]
    rows = data.splits[split]
    texts = [captions[label] for label in rows["label"][:]]
    return CaptionedImages(rows.remove_columns("label").add_column("text", texts).cast(CAPTIONED), data.skipped)


def count_cut_captions(rows: Dataset, tokenizer: PreTrainedTokenizerBase, most_tokens: int) -> int:
    """How many captions have more tokens than the model reads, so that they are cut."""
    texts = [caption for captions in rows["text"][:] for caption in captions]
    lengths = (
        len(token_ids)
        for start in range(0, len(texts), TEXTS_AT_A_TIME)
        for token_ids in tokenizer(texts[start : start + TEXTS_AT_A_TIME], verbose=False).input_ids
    )
    return sum(length > most_tokens for length in lengths)


@dataclass(frozen=True)
class CaptionedImageTransform:
    """Decodes and transforms images, and gives each one of its captions as token ids.

    The caption is drawn like the augmentation, from the random state that belongs to the row.

    Args:
        transform: From a PIL RGB image to a tensor `[channels, height, width]`.
        tokenizer: Of the texts.
        most_tokens: Tokens that longer texts are cut to, start and end included.
    """

    transform: Callable[[Image.Image], Tensor]
    tokenizer: PreTrainedTokenizerBase
    most_tokens: int
    columns: ClassVar[tuple[str, ...]] = ("image", "text")

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        """Rows of `image` and `text`, a list of captions each -> rows of `pixel_values` and `input_ids`."""
        pixel_values = [self.transform(decode_image(image)) for image in rows["image"]]
        drawn = [captions[torch.randint(len(captions), ())] for captions in rows["text"]]
        input_ids = self.tokenizer(drawn, truncation=True, max_length=self.most_tokens).input_ids
        return {"pixel_values": pixel_values, "input_ids": input_ids}


@dataclass(frozen=True)
class CaptionCollator:
    """Stacks transformed rows; texts are filled up to the longest of the batch.

    Args:
        pad_token_id: What fills them up.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """Rows of `CaptionedImageTransform` -> `pixel_values` `[batch, channels, height, width]`, `input_ids`
        `[batch, tokens]`."""
        input_ids = [torch.as_tensor(row["input_ids"]) for row in rows]
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "input_ids": pad_sequence(input_ids, batch_first=True, padding_value=self.pad_token_id),
        }
