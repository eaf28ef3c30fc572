"""Sources, columns, splits, and what is wrong with them."""

import io
import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image
from sklearn.datasets import load_digits

from hf_vit_suite.data import decode_image, load_image_dataset


def picture(level: int) -> Image.Image:
    """A flat grey picture."""
    return Image.new("RGB", (12, 10), (level, level, level))


def make_folder(root: Path, counts: dict[str, int]) -> Path:
    """PNG pictures in class folders; the grey level is the class's number times 50."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(50 * number).save(root / name / f"test_{index}.png")
    return root


def level(row: dict) -> int:
    """The grey level of a row's image."""
    return decode_image(row["image"]).getpixel((0, 0))[0]


def test_digits_are_scikit_learns_pixels_in_three_stratified_splits():
    data = load_image_dataset("digits")
    assert data.label_names == list("0123456789")
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 1458, "validation": 160, "test": 179}
    seen = Counter()
    for rows in data.splits.values():
        counts = Counter(rows["label"])
        assert max(counts.values()) <= 1.35 * min(counts.values())
        for row in rows:
            seen[np.asarray(decode_image(row["image"]))[..., 0].tobytes(), row["label"]] += 1
    digits = load_digits()
    levels = np.round(digits.images * 255 / 16).astype(np.uint8)
    assert seen == Counter((image.tobytes(), label) for image, label in zip(levels, digits.target, strict=True))


def test_splits_depend_on_the_seed_alone():
    first, again, other = (load_image_dataset("digits", seed=seed).splits["test"]["label"][:] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_image_folder_gets_its_labels_from_folders_and_no_split_from_file_names(tmp_path: Path):
    data = load_image_dataset(str(make_folder(tmp_path, {"cat": 20, "dog": 30})))
    assert data.label_names == ["cat", "dog"]
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 40, "validation": 5, "test": 5}
    for rows in data.splits.values():
        assert all(level(row) == 50 * row["label"] for row in rows)


def test_folders_named_after_splits_are_kept_as_splits(tmp_path: Path):
    make_folder(tmp_path / "train", {"cat": 6, "dog": 6})
    make_folder(tmp_path / "val", {"cat": 2, "dog": 1})
    make_folder(tmp_path / "test", {"dog": 3})
    data = load_image_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 12, "validation": 3, "test": 3}
    assert set(data.splits["test"]["label"]) == {1}


def test_parquet_with_string_labels_and_columns_of_other_names(tmp_path: Path):
    rows = {"photo": [picture(10 * (index % 3)) for index in range(30)], "species": list("bca") * 10}
    Dataset.from_dict(
        rows, features=Features({"photo": datasets.Image(), "species": datasets.Value("string")})
    ).to_parquet(tmp_path / "data.parquet")
    source = str(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match=r"name one of photo, species by --label_column"):
        load_image_dataset(source)
    with pytest.raises(ValueError, match=r"has no column 'kind': name one of photo, species"):
        load_image_dataset(source, label_column="kind")
    data = load_image_dataset(source, label_column="species")
    assert data.label_names == ["a", "b", "c"]
    assert all(level(row) == {1: 0, 2: 10, 0: 20}[row["label"]] for row in data.splits["train"])


def write_tar(path: Path, labels: list[int], suffix: str) -> None:
    """A webdataset shard with PNG pictures of level 10 x label."""
    with tarfile.open(path, "w") as tar:
        for index, label in enumerate(labels):
            buffer = io.BytesIO()
            picture(10 * label).save(buffer, format="PNG")
            text = json.dumps({"label": label}) if suffix == "json" else str(label)
            for name, content in ((f"{index:04}.png", buffer.getvalue()), (f"{index:04}.{suffix}", text.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_webdataset_shards_of_a_folder_by_split(tmp_path: Path, suffix: str):
    write_tar(tmp_path / "train-0.tar", [2, 10, 2, 10] * 3, suffix)
    write_tar(tmp_path / "train-1.tar", [10, 2] * 3, suffix)
    write_tar(tmp_path / "test-0.tar", [2, 10], suffix)
    data = load_image_dataset(str(tmp_path))
    assert data.label_names == ["2", "10"]
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}
    assert all(level(row) == (20, 100)[row["label"]] for rows in data.splits.values() for row in rows)


def test_glob_of_parquet_files(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    for part in range(2):
        rows = {"image": [picture(0)] * 10, "label": [0, 1] * 5}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"part{part}.parquet")
    data = load_image_dataset(str(tmp_path / "part*.parquet"))
    assert sum(len(rows) for rows in data.splits.values()) == 20


def test_hidden_test_labels_do_not_count_as_a_test_split(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    for split, labels in (("train", [0, 1] * 10), ("test", [-1] * 4)):
        rows = {"image": [picture(0)] * len(labels), "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = load_image_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}


def test_unreadable_images_are_skipped_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_folder(tmp_path, {"cat": 20, "dog": 20})
    (tmp_path / "cat" / "broken.png").write_bytes(b"")
    whole = (tmp_path / "dog" / "test_0.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        data = load_image_dataset(str(tmp_path))
    assert sum(len(rows) for rows in data.splits.values()) == 40
    assert len(data.skipped) == 2
    assert "broken.png" in data.skipped[0]
    assert "cut.png" in data.skipped[1]
    assert "skipped 2 unreadable images" in caplog.text
    with pytest.raises(ValueError, match=r"2 unreadable images: .*broken\.png"):
        load_image_dataset(str(tmp_path), strict_images=True)


def test_every_class_keeps_a_training_image_however_few_there_are(tmp_path: Path):
    data = load_image_dataset(str(make_folder(tmp_path, {"cat": 1, "dog": 2, "owl": 9})))
    assert set(data.splits["train"]["label"]) == {0, 1, 2}
    assert all(len(rows) for rows in data.splits.values())


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images in class subfolders"),
        ({"cat": 3, "dog": 0}, "class folder .*dog has no image: remove it or add images"),
        ({"cat": 3}, r"has 1 class \(cat\), at least 2 are needed"),
    ],
)
def test_folder_without_enough_is_refused(tmp_path: Path, counts: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(str(make_folder(tmp_path, counts)))


def test_class_without_readable_image_is_refused_by_name(tmp_path: Path):
    make_folder(tmp_path, {"cat": 3, "dog": 1})
    (tmp_path / "dog" / "test_0.png").write_text("no picture")
    with pytest.raises(ValueError, match="class dog has no readable training image"):
        load_image_dataset(str(tmp_path))


def test_label_unknown_to_train_is_refused_by_name(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": datasets.Value("string")})
    for split, labels in (("train", ["a", "b"] * 5), ("test", ["a", "z"])):
        rows = {"image": [picture(0)] * len(labels), "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"the test split has labels that train has not: \['z'\]"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "data/set/deep", "nowhere.parquet"])
def test_path_to_nowhere_is_refused_as_a_path(source: str):
    with pytest.raises(FileNotFoundError, match=f"{source}: there is no such file or folder"):
        load_image_dataset(source)


def test_name_that_the_hub_does_not_give_says_what_it_may_be():
    with pytest.raises(ValueError, match="nobody/nothing is neither digits nor a file or folder here, and as a Hub"):
        load_image_dataset("nobody/nothing")


def test_file_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"expected parquet or \.tar files"):
        load_image_dataset(str(tmp_path / "notes.txt"))
    (tmp_path / "broken.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"broken\.parquet can't be read"):
        load_image_dataset(str(tmp_path / "broken.parquet"))


@pytest.mark.parametrize("fraction", [0, 0.5, -1])
def test_fraction_out_of_range_is_refused(fraction: float):
    with pytest.raises(ValueError, match=r"test_fraction must be above 0 and below 0\.5"):
        load_image_dataset("digits", test_fraction=fraction)


def test_stream_has_the_rows_once_and_skips_unreadable_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make_folder(tmp_path, {"cat": 20, "dog": 20})
    (tmp_path / "cat" / "broken.png").write_bytes(b"")
    data = load_image_dataset(str(tmp_path), streaming=True)
    rows = {split: list(stream) for split, stream in data.splits.items()}
    assert data.label_names == ["cat", "dog"]
    assert sum(len(part) for part in rows.values()) == 40
    assert all(level(row) == 50 * row["label"] for part in rows.values() for row in part)
    paths = [row["image"]["path"] for part in rows.values() for row in part]
    assert len(set(paths)) == 40
    assert "broken.png" in caplog.text
    strict = load_image_dataset(str(tmp_path), streaming=True, strict_images=True)
    with pytest.raises(ValueError, match=r"broken\.png"):
        [list(stream) for stream in strict.splits.values()]


def test_stream_without_label_names_is_refused(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [picture(0)] * 4, "label": ["a", "b"] * 2}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="does not name its labels, which --streaming needs"):
        load_image_dataset(str(tmp_path / "data.parquet"), streaming=True)
