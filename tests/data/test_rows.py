"""Rows that can't be decoded: replaced, remembered, named, and left out of measures."""

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_vit_suite.data import (
    AugmentedImages,
    AugmentedStream,
    ImageDecodingError,
    ImageTransform,
    ReadableRows,
    apply_transform,
    collate_images,
    decode_image,
    evaluation_transform,
    has_label,
    load_image_dataset,
    load_unlabelled_images,
    training_transform,
    warn_of_unreadable,
)

PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8}, do_normalize=False)
TRANSFORM = ImageTransform(evaluation_transform(PROCESSOR))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes numbered pictures, each of its own grey, of which some are broken."""

    def make(number: int, *broken: int) -> Path:
        for index in range(number):
            Image.new("RGB", (12, 10), (10 * index,) * 3).save(tmp_path / f"{index:02}.png")
        for index in broken:
            (tmp_path / f"{index:02}.png").write_bytes(b"no picture")
        return tmp_path

    return make


def labelled(path: Path) -> Dataset:
    """The rows of such a folder; the label of each is its number."""
    rows = load_unlabelled_images(str(path)).rows
    return rows.add_column("label", list(range(len(rows))))


def greys(batches: list[dict]) -> list[int]:
    """What the images of batches show: their numbers."""
    return [round(255 * float(image.mean()) / 10) for batch in batches for image in batch["pixel_values"]]


def load(rows: torch.utils.data.Dataset, workers: int = 0) -> list[dict]:
    """The batches of a pass in order."""
    return list(DataLoader(rows, batch_size=2, num_workers=workers, collate_fn=collate_images))


def test_loading_opens_no_image(folder, monkeypatch: pytest.MonkeyPatch):
    path = folder(6, 2)
    for index in range(2):
        part = path / f"class{index}"
        part.mkdir()
        for file in sorted(path.glob("*.png"))[:3]:
            file.rename(part / file.name)

    def refuse(*args):
        raise AssertionError("an image was decoded before it was needed")

    monkeypatch.setattr("hf_vit_suite.data.decoding.upright_rgb", refuse)
    for streaming in (False, True):
        assert load_image_dataset(str(path), streaming=streaming).label_names == ["class0", "class1"]
        load_unlabelled_images(str(path), streaming=streaming)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_rows_give_way_to_the_next_and_are_named(folder, workers: int, caplog: pytest.LogCaptureFixture):
    rows = AugmentedImages(labelled(folder(9, 2, 3, 8)), TRANSFORM, seed=1)
    assert greys(load(rows, workers)) == [0, 1, 4, 4, 4, 5, 6, 7, 0]
    assert rows.unreadable.nonzero().flatten().tolist() == [2, 3, 8]
    lines = rows.problems()
    assert [line.partition(" is no readable image")[0][-6:] for line in lines] == ["02.png", "03.png", "08.png"]
    assert lines[0].endswith("(train row 2)")
    with caplog.at_level(logging.WARNING):
        warn_of_unreadable(lines)
    assert "skipped 3 unreadable images: " in caplog.text


def test_first_unreadable_rows_are_named_when_they_are_met(folder, caplog: pytest.LogCaptureFixture):
    load(AugmentedImages(labelled(folder(16, *range(1, 15, 2))), TRANSFORM, seed=1))
    assert caplog.text.count("the next readable image takes the place of one: ") == 5


def test_an_unreadable_row_is_tried_once(folder, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def count(image: dict) -> Image.Image:
        tried.append(image["path"][-6:])
        return decode_image(image)

    monkeypatch.setattr("hf_vit_suite.data.augmentation.decode_image", count)
    rows = AugmentedImages(labelled(folder(6, 2)), TRANSFORM, seed=1)
    for _ in range(2):
        load(rows)
    assert tried.count("02.png") == 1
    assert tried.count("03.png") == 4


def test_augmentation_of_a_replaced_row_follows_the_seed(folder):
    rows = labelled(folder(5, 1))
    transform = ImageTransform(training_transform(PROCESSOR))
    first, again, other = (AugmentedImages(rows, transform, seed) for seed in (1, 1, 2))
    assert all(
        torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(load(first), load(again), strict=True)
    )
    assert [row["labels"].tolist() for row in load(other)] == [[0, 2], [2, 3], [4]]


@pytest.mark.parametrize("several", [False, True])
def test_evaluation_leaves_out_unreadable_rows(folder, several: bool):
    data = labelled(folder(7, 3, 6))
    if several:
        data = data.remove_columns("label").add_column("label", [[float(number), 1.0] for number in range(7)])
    rows = apply_transform(data, TRANSFORM)
    batches = load(rows, workers=2)
    labels = torch.cat([batch["labels"] for batch in batches])
    kept = has_label(labels)
    assert kept.tolist() == [True, True, True, False, True, True, False]
    assert (labels[kept][:, 0] if several else labels[kept]).tolist() == [0, 1, 2, 4, 5]
    assert [image for image, is_kept in zip(greys(batches), kept, strict=True) if is_kept] == [0, 1, 2, 4, 5]


def test_unreadable_row_without_a_label_gives_way_too(folder):
    rows = apply_transform(load_unlabelled_images(str(folder(4, 1))).rows, TRANSFORM)
    assert greys([{"pixel_values": [row["pixel_values"] for row in rows]}]) == [0, 2, 2, 3]


def test_strict_rows_stop_at_the_first(folder):
    rows = labelled(folder(6, 2, 4))
    for strict in (AugmentedImages(rows, TRANSFORM, 0, strict=True), apply_transform(rows, TRANSFORM, strict=True)):
        with pytest.raises(ImageDecodingError, match=r"02\.png is no readable image"):
            load(strict)
        with pytest.raises(ImageDecodingError, match=r"02\.png is no readable image"):
            load(strict, workers=1)


@pytest.mark.parametrize("broken", [(0, 1, 2, 3), (2, 3, 4, 5, 6), tuple(range(7))])
def test_more_unreadable_rows_than_readable_ones_stop_a_pass(folder, broken: tuple[int, ...]):
    rows = labelled(folder(7, *broken))
    with pytest.raises(ValueError, match="more than half of the images of the train split are unreadable: 4 of 7 so"):
        load(AugmentedImages(rows, TRANSFORM, 0))


def test_half_of_the_rows_may_be_unreadable(folder):
    rows = ReadableRows(labelled(folder(6, 0, 2, 4)), TRANSFORM)
    assert greys(load(rows)) == [1, 1, 3, 3, 5, 5]


def test_streams_decode_each_row_once_a_pass_and_leave_out_unreadable_ones(
    folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    tried = []

    def count(image: dict) -> Image.Image:
        tried.append(image["path"][-6:])
        return decode_image(image)

    monkeypatch.setattr("hf_vit_suite.data.augmentation.decode_image", count)
    rows = load_unlabelled_images(str(folder(6, 2)), streaming=True).rows
    read = list(islice(AugmentedStream(rows, TRANSFORM, 0), 11))
    for part in (read[:5], read[5:10]):
        assert sorted(greys([{"pixel_values": [row["pixel_values"] for row in part]}])) == [0, 1, 3, 4, 5]
    assert sorted(tried[:12]) == sorted(2 * [f"{number:02}.png" for number in range(6)])
    assert caplog.text.count("02.png is no readable image") >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_stream_stops_at_the_first_unreadable_row(folder, workers: int):
    rows = load_unlabelled_images(str(folder(6, 2)), streaming=True).rows
    with pytest.raises(ImageDecodingError, match=r"02\.png"):
        list(DataLoader(AugmentedStream(rows, TRANSFORM, 0, strict=True), batch_size=6, num_workers=workers))


def test_streamed_evaluation_leaves_out_unreadable_rows(folder):
    rows = load_unlabelled_images(str(folder(6, 2)), streaming=True).rows
    read = list(apply_transform(rows, TRANSFORM))
    assert greys([{"pixel_values": [row["pixel_values"] for row in read]}]) == [0, 1, 3, 4, 5]
    with pytest.raises(ImageDecodingError, match=r"02\.png"):
        list(apply_transform(rows, TRANSFORM, strict=True))


def test_stream_of_mostly_unreadable_rows_stops(folder):
    rows = load_unlabelled_images(str(folder(5, 0, 2, 4)), streaming=True).rows
    with pytest.raises(ValueError, match="more than half of the streamed images are unreadable: 3 of 5 so far"):
        list(AugmentedStream(rows, TRANSFORM, 0))
