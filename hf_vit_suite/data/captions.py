"""Loads images with captions from any source, and tokenizes the captions."""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from datasets import Dataset, Features, IterableDataset, List, Value
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from .columns import UNDECODED
from .decoding import decode_image, file_bytes, image_name
from .labels import written_list
from .layout import counted
from .loading import (
    LabelledImages,
    parse_split_names,
    refuse_or_name,
)
from .objects import Source, dataset_name
from .reading import Reading, describe_reading
from .request import Request
from .sources import open_source
from .tables import decode_text

logger = logging.getLogger(__name__)

CAPTIONED = Features({"image": UNDECODED, "text": List(Value("string"))})
TEXTS_AT_A_TIME = 1000


@dataclass(frozen=True)
class CaptionedImages:
    """One split of images with captions.

    Args:
        rows: Rows with the columns `image` (undecoded) and `text`, a list of non-empty captions.
        skipped: `file: reason` for each image without a caption; empty for streams, which skip while reading.
        reading: What was understood of the source.
        strict_images: Whether an unreadable image is an error when it is read, or is skipped.
    """

    rows: Dataset | IterableDataset
    skipped: list[str]
    reading: Reading = field(default_factory=Reading)
    strict_images: bool = False


def load_captioned_images(
    source: Source,
    *,
    split: str = "train",
    image_column: str | None = None,
    text_column: str | None = None,
    layout: str | None = None,
    split_names: Sequence[str] | Mapping[str, str] | None = None,
    streaming: bool = False,
    strict_images: bool = False,
    one_row_an_image: bool = True,
) -> CaptionedImages:
    """Loads one split of images with captions.

    Args:
        source: A folder of images with a metadata file (metadata.csv, .tsv, .jsonl or .parquet with the columns
            `file_name` and `text`), such a table, a parquet or webdataset (`.tar`) file, folder or glob, the name of a
            Hub data set, or a data set object.
        split: `train`, `validation` or `test`; a source without splits is `train`.
        image_column: Column of the images, or of their file names in a table; default found by type and name.
        text_column: Column of the captions, a string or a list of strings per row; default one with a usual name.
        layout: How a folder is read where that is not clear: `metadata`, `parquet` or `webdataset`.
        split_names: As in `load_image_dataset`.
        streaming: Read rows on demand.
        strict_images: Raise an error on images without a caption and, when they are read, on unreadable images,
            instead of skipping them.
        one_row_an_image: Merge rows of the same image into one row with all its captions; COCO and Flickr30k often
            come with one row per caption. Streams are not merged.

    Raises:
        ValueError: If the source is empty, the split or the columns can't be found, no image has a caption, or, with
            `strict_images`, an image has no caption.
        FileNotFoundError: If a path does not exist.
    """
    name = dataset_name(source)
    names = parse_split_names(split_names)
    opened = open_source(source, Request(name, "captions", streaming, layout, names, image_column, text_column))
    if split not in opened.splits:
        raise ValueError(f"--dataset {name} has no {split} split, it has {', '.join(opened.splits)}")
    rows = opened.only(split)[split]
    if streaming:
        refuse_or_name(opened.undescribed, "has no caption", strict_images, name)
        reading = describe_reading(name, {split: rows}, opened.layout, opened.ignored)
        rows = rows.map(clean_captions, input_columns="text", features=CAPTIONED)
        return CaptionedImages(rows.filter(bool, input_columns="text"), [], reading, strict_images)
    rows = rows.map(clean_captions, input_columns="text", desc="captions").cast(CAPTIONED)
    described, bare = drop_bare(rows, opened.undescribed, strict_images, name)
    if not len(described):
        raise ValueError(f"--dataset {name} has no image with a caption in its {split} split")
    captioned = gather_captions(described) if one_row_an_image else described
    number = counted(sum(map(len, captioned["text"][:])), "caption")
    reading = describe_reading(name, {split: captioned}, opened.layout, opened.ignored, number)
    return CaptionedImages(captioned, bare, reading, strict_images)


def gather_captions(rows: Dataset) -> Dataset:
    """Merges rows whose encoded images are byte-identical into one row with all their captions."""
    digests = rows.map(
        lambda image: {"digest": hashlib.sha256(content_or_name(image)).digest()},
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


def content_or_name(image: Mapping | None) -> bytes:
    """An image's encoded bytes; the name of one that can't be opened, which is told when it is read."""
    try:
        return file_bytes(image or {"path": None})
    except (OSError, TypeError):
        return image_name(image).encode()


def clean_captions(text: str | bytes | Sequence[str | bytes] | None) -> dict[str, list[str]]:
    """Converts a row's caption value to a list of stripped, non-empty captions.

    A text that is a list of strings as JSON or Python write it, such as Flickr30k's tables hold, is these captions.

    Raises:
        ValueError: If it is no text, or bytes in another encoding than UTF-8.
    """
    values = text if isinstance(text, list | tuple) else [text]
    captions = (caption for value in values if value is not None for caption in written_captions(value))
    return {"text": [stripped for caption in captions if (stripped := caption.strip())]}


def written_captions(value: Any) -> list[str]:
    """The captions of one value: numbers as they are written, lists in texts as lists."""
    if isinstance(value, bytes):
        value = decode_text(value, "a caption")
    if not isinstance(value, str | int | float):
        raise ValueError(f"expected texts as captions, got {value!r}: name another --text_column")
    text = str(value).strip()
    found = written_list(text) if text[:1] == "[" else None
    return found if found and all(isinstance(part, str) for part in found) else [text]


def drop_bare(rows: Dataset, undescribed: list[str], strict: bool, source: str) -> tuple[Dataset, list[str]]:
    """Drops rows without a caption; reports them together with the `undescribed` images."""
    counts = [len(captions) for captions in rows["text"][:]]
    bare = [rows[number]["image"].get("path") or f"row {number}" for number, count in enumerate(counts) if not count]
    lines = refuse_or_name([*bare, *undescribed], "has no caption", strict, source)
    if not lines:
        return rows, []
    return rows.select([number for number, count in enumerate(counts) if count]), lines


def captions_of_labels(
    data: LabelledImages, split: str, names: Sequence[str], templates: Sequence[str]
) -> CaptionedImages:
    """Captions labelled images with their label's name inserted into each template.

    Args:
        data: Labelled images, not streamed.
        split: `train`, `validation` or `test`.
        names: Label names, indexed by label number.
        templates: Caption templates; `{}` is replaced by the name.
    """
    captions = [[template.replace("{}", name) for template in templates] for name in names]
    rows = data.splits[split]
    texts = [captions[label] for label in rows["label"][:]]
    return CaptionedImages(
        rows.remove_columns("label").add_column("text", texts).cast(CAPTIONED),
        data.skipped,
        data.reading,
        data.strict_images,
    )


def count_cut_captions(rows: Dataset, tokenizer: PreTrainedTokenizerBase, most_tokens: int) -> int:
    """Counts captions with more than `most_tokens` tokens, which are truncated."""
    texts = [caption for captions in rows["text"][:] for caption in captions]
    lengths = (
        len(token_ids)
        for start in range(0, len(texts), TEXTS_AT_A_TIME)
        for token_ids in tokenizer(texts[start : start + TEXTS_AT_A_TIME], verbose=False).input_ids
    )
    return sum(length > most_tokens for length in lengths)


@dataclass(frozen=True)
class CaptionedImageTransform:
    """Decodes and transforms images, and tokenizes one randomly drawn caption of each.

    The caption is drawn from the row's random state, like the augmentation.

    Args:
        transform: Transform of a PIL RGB image to a tensor `[channels, height, width]`.
        tokenizer: Tokenizer of the captions.
        most_tokens: Maximum tokens per caption, including start and end; longer captions are truncated.
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
    """Stacks transformed rows; texts are padded to the longest of the batch.

    Args:
        pad_token_id: Token id of the padding.
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
