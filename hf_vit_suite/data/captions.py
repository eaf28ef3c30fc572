"""Loads images with captions from any source, and tokenizes the captions."""

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
    """One split of images with captions.

    Args:
        rows: Rows with the columns `image` (undecoded) and `text`, a list of non-empty captions.
        skipped: `file: reason` for each image that is unreadable or has no caption; empty for streams, which skip
            while reading.
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
    """Loads one split of images with captions.

    Args:
        source: A folder of images with a metadata file (metadata.csv, .jsonl or .parquet with the columns `file_name`
            and `text`), a parquet or webdataset (`.tar`) file, folder or glob, or the name of a Hub data set.
        split: `train`, `validation` or `test`; a source without splits is `train`.
        image_column: Column of the images; default the column of image type, else one with a usual name.
        text_column: Column of the captions, a string or a list of strings per row; default one with a usual name.
        streaming: Read rows on demand.
        strict_images: Raise an error on unreadable images and on images without a caption instead of skipping them.
        one_row_an_image: Merge rows of the same image into one row with all its captions; COCO and Flickr30k often
            come with one row per caption. Streams are not merged.

    Raises:
        ValueError: If the source is empty, the split or the columns can't be found, no captioned image is readable,
            or, with `strict_images`, an image is unreadable or has no caption.
        FileNotFoundError: If a path does not exist.
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
    """Merges rows whose encoded images are byte-identical into one row with all their captions."""
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
    """Converts a row's caption value to a list of stripped, non-empty captions."""
    captions = text if isinstance(text, list | tuple) else [text]
    decoded = [caption.decode(errors="replace") if isinstance(caption, bytes) else caption for caption in captions]
    return {"text": [caption.strip() for caption in decoded if caption and caption.strip()]}


def undescribed_images(source: str, loaded: dict[str, Dataset]) -> list[str]:
    """Lists images of a folder without a metadata row, which `datasets` omits silently."""
    folder = local_path(source)
    images = {str(path) for path in visible_files(folder) if is_image(path)} if folder.is_dir() else set()
    if not images:
        return []
    for data in loaded.values():
        column = find_column(data, None, "image", datasets.Image, IMAGE_COLUMNS, source)
        images -= {image["path"] for image in data.cast_column(column, UNDECODED)[column]}
    return sorted(images)


def drop_bare(rows: Dataset, undescribed: list[str], strict: bool, source: str) -> tuple[Dataset, list[str]]:
    """Drops rows without a caption; reports them together with the `undescribed` images."""
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
    return CaptionedImages(rows.remove_columns("label").add_column("text", texts).cast(CAPTIONED), data.skipped)


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
