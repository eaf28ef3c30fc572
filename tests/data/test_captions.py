"""Images with captions from every kind of source, and what becomes of bad rows."""

import gc
import io
import json
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_vit_suite.data import (
    AugmentedImages,
    CaptionCollator,
    CaptionedImageTransform,
    captions_of_labels,
    count_cut_captions,
    load_captioned_images,
    load_image_dataset,
    train_tokenizer,
)

TEXTS = ["a red square", "a green square", "a blue square"]


def save_pictures(folder: Path) -> list[Path]:
    """Three pictures."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        pixels = np.zeros((8, 8, 3), np.uint8)
        pixels[..., number] = 255
        Image.fromarray(pixels).save(path)
    return paths


def write_metadata(folder: Path, rows: list[tuple[str, str]]) -> None:
    """A metadata.jsonl of these files and texts."""
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three pictures with captions."""
    paths = save_pictures(tmp_path / "pictures")
    write_metadata(tmp_path / "pictures", [(path.name, text) for path, text in zip(paths, TEXTS, strict=True)])
    return tmp_path / "pictures"


def as_parquet(folder: Path, path: Path, **columns) -> Path:
    """The pictures and other columns as a parquet file."""
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(folder.glob("*.png"))]
    features = datasets.Dataset.from_dict(columns).features | {"image": datasets.Image()}
    datasets.Dataset.from_dict({**columns, "image": images}, features=datasets.Features(features)).to_parquet(path)
    return path


def as_tar(folder: Path, path: Path) -> Path:
    """The pictures and texts as a webdataset."""
    with tarfile.open(path, "w") as archive:
        for number, text in enumerate(TEXTS):
            archive.add(folder / f"{number}.png", f"{number:03}.png")
            entry = tarfile.TarInfo(f"{number:03}.txt")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["folder", "relative folder", "linked folder", "parquet", "webdataset"])
def test_every_source_gives_images_with_lists_of_captions(
    kind: str, streaming: bool, folder: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source: Path | str = folder
    if kind == "relative folder":
        source = "./pictures/"
    elif kind == "linked folder":
        source = tmp_path / "link"
        source.symlink_to(folder)
    elif kind == "parquet":
        source = as_parquet(folder, tmp_path / "a.parquet", caption=TEXTS)
    elif kind == "webdataset":
        source = as_tar(folder, tmp_path / "a.tar")
    data = load_captioned_images(str(source), streaming=streaming)
    rows = list(data.rows)
    assert [row["text"] for row in rows] == [[text] for text in TEXTS]
    assert all(row["image"].keys() == {"bytes", "path"} for row in rows)
    assert data.skipped == []


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("streaming", [False, True])
def test_metadata_may_be_a_table(streaming: bool, folder: Path):
    (folder / "metadata.jsonl").unlink()
    lines = ["file_name,text", *(f'{number}.png,"{text}"' for number, text in enumerate(TEXTS))]
    (folder / "metadata.csv").write_text("\n".join(lines))
    rows = list(load_captioned_images(str(folder), streaming=streaming).rows)
    assert [row["text"] for row in rows] == [[text] for text in TEXTS]
    gc.collect()  # datasets leaves the open file to it


def test_several_captions_an_image_stay_together_without_the_empty_ones(folder: Path, tmp_path: Path):
    texts = [["one", " two "], ["three", "", None], ["four"]]
    data = load_captioned_images(str(as_parquet(folder, tmp_path / "a.parquet", sentences=texts)))
    assert data.rows["text"][:] == [["one", "two"], ["three"], ["four"]]


def test_splits_are_folders_and_training_reads_its_own(tmp_path: Path):
    for split in ("train", "test"):
        paths = save_pictures(tmp_path / split)
        write_metadata(tmp_path / split, [(path.name, f"{split} {path.stem}") for path in paths])
    for split in ("train", "test"):
        data = load_captioned_images(str(tmp_path), split=split)
        assert data.rows["text"][:] == [[f"{split} {number}"] for number in range(3)]


def test_one_table_may_describe_the_images_of_every_split(tmp_path: Path):
    rows = []
    for split in ("train", "test"):
        rows += [(f"{split}/{path.name}", f"{split} {path.stem}") for path in save_pictures(tmp_path / split)]
    write_metadata(tmp_path, rows)
    for split in ("train", "test"):
        assert load_captioned_images(str(tmp_path), split=split).rows["text"][:] == [
            [f"{split} {number}"] for number in range(3)
        ]
    write_metadata(tmp_path, rows[:3])
    with pytest.raises(ValueError, match=r"no row of metadata.jsonl names an image of the test split"):
        load_captioned_images(str(tmp_path))


def test_bad_rows_are_skipped_counted_and_named(folder: Path, caplog):
    (folder / "0.png").write_bytes(b"no picture")
    write_metadata(folder, [("0.png", "cut"), ("1.png", "  "), ("gone.png", "missing"), ("extra/0.png", "kept")])
    extra = folder / "extra"
    save_pictures(extra)
    data = load_captioned_images(str(folder))
    assert data.rows["text"][:] == [["cut"], ["missing"], ["kept"]]
    named = " ".join(data.skipped)
    for name in ("1.png has no caption", "2.png has no caption", "extra/1.png has no caption"):
        assert name in named
    assert len(data.skipped) == 4
    assert "skipped 4 images without a caption" in caplog.text


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("0.png", "a"), ("1.png", "")], "2 images without a caption: .*1.png"),
        ([("0.png", "a")], "2 images without a caption: .*1.png"),
    ],
)
def test_strict_images_stop_at_bad_rows(rows: list[tuple[str, str]], message: str, folder: Path):
    write_metadata(folder, rows)
    with pytest.raises(ValueError, match=message):
        load_captioned_images(str(folder), strict_images=True)


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="has no test split, it has train"):
        load_captioned_images(str(folder), split="test")
    with pytest.raises(ValueError, match=r"no column 'words': name one of text by --text_column"):
        load_captioned_images(str(folder), text_column="words")
    write_metadata(folder, [("9.png", "a")])
    with pytest.raises(ValueError, match=r"metadata.jsonl names no image that is there, such as 9.png"):
        load_captioned_images(str(folder))
    unlabelled = as_parquet(folder, tmp_path / "a.parquet", number=[1, 2, 3])
    with pytest.raises(ValueError, match="no column that looks like the text: name one of number, image"):
        load_captioned_images(str(unlabelled))
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no captions, expected a file .*metadata.csv"):
        load_captioned_images(str(folder))
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        load_captioned_images(str(tmp_path / "nowhere"))


def test_labels_become_captions_by_templates():
    digits = load_image_dataset("digits")
    data = captions_of_labels(digits, "train", digits.label_names, ["the digit {}.", "{} {}"])
    for label, texts in zip(digits.splits["train"]["label"][:20], data.rows["text"][:20], strict=True):
        assert texts == [f"the digit {label}.", f"{label} {label}"]


def test_rows_draw_a_caption_by_seed_epoch_and_row_and_are_cut(folder: Path, tmp_path: Path):
    texts = [[f"caption {number}" for number in range(20)], ["word " * 30], ["short"]]
    data = load_captioned_images(str(as_parquet(folder, tmp_path / "a.parquet", text=texts)))
    tokenizer = train_tokenizer([text for captions in texts for text in captions], 600)
    assert count_cut_captions(data.rows, tokenizer, 10) == 1
    transform = CaptionedImageTransform(lambda image: torch.zeros(3, 4, 4), tokenizer, most_tokens=10)
    rows = AugmentedImages(data.rows, transform, seed=0)
    first = [rows[index]["input_ids"] for index in range(3)]
    assert first == [rows[index]["input_ids"] for index in range(3)]
    drawn = []
    for epoch in range(10):
        rows.set_epoch(epoch)
        drawn.append(tokenizer.decode(rows[0]["input_ids"], skip_special_tokens=True))
    assert len(set(drawn)) > 3
    assert set(drawn) <= {" ".join(["caption", *str(number)]) for number in range(20)}
    assert len(first[1]) == 10
    assert first[1][-1] == tokenizer.eos_token_id

    batch = CaptionCollator(tokenizer.pad_token_id)([rows[index] for index in range(3)])
    assert batch["pixel_values"].shape == (3, 3, 4, 4)
    longest = max(len(rows[index]["input_ids"]) for index in range(3))
    assert batch["input_ids"].shape == (3, longest)
    expected = tokenizer.pad({"input_ids": [rows[index]["input_ids"] for index in range(3)]}, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected.input_ids)
