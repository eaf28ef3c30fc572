"""Sources, columns, splits, and what is wrong with them."""

import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from datasets.distributed import split_dataset_by_node
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


def write_parquet(path: Path, images: list, labels: list, label_type=None) -> None:
    """A parquet file; labels are numbers of the classes x and y unless said otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    label_type = label_type if label_type is not None else ClassLabel(names=["x", "y"])
    features = Features({"image": datasets.Image(), "label": label_type})
    Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(path)


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


def test_names_with_pattern_signs_are_read_and_hidden_files_are_not(tmp_path: Path):
    folder = make_folder(tmp_path / "pictures [2024]", {"c[a]t": 10, "dog": 10})
    picture(0).save(folder / "c[a]t" / "photo[1].png")
    (folder / "dog" / ".ipynb_checkpoints").mkdir()
    picture(0).save(folder / "dog" / ".ipynb_checkpoints" / "0-checkpoint.png")
    data = load_image_dataset(str(folder))
    assert data.label_names == ["c[a]t", "dog"]
    assert sum(len(rows) for rows in data.splits.values()) == 21


def test_images_at_two_depths_are_a_question(tmp_path: Path):
    make_folder(tmp_path / "cat", {"black": 2, "white": 2})
    make_folder(tmp_path, {"dog": 2})
    make_folder(tmp_path / "fox" / "images", {"red": 2})
    with pytest.raises(
        ValueError,
        match=r"3 classes such as cat \(--layout class_folders\), or 4 classes such as cat/black \(--layout leaf",
    ):
        load_image_dataset(str(tmp_path))
    assert load_image_dataset(str(tmp_path), layout="class_folders").label_names == ["cat", "dog", "fox"]
    assert load_image_dataset(str(tmp_path), layout="leaf_folders").label_names == [
        "cat/black", "cat/white", "dog", "fox/images/red",
    ]  # fmt: skip


@pytest.mark.parametrize("folders", ["{}/images", "{}/a/b/c", "{}"])
def test_folders_between_class_and_images_change_no_class(tmp_path: Path, folders: str):
    for number, name in enumerate(("cat", "dog")):
        make_folder(tmp_path, {folders.format(name): 4 + number})
    data = load_image_dataset(str(tmp_path))
    assert data.label_names == ["cat", "dog"]
    assert sum(map(len, data.splits.values())) == 9


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


@pytest.mark.parametrize("pattern", ["", "**/*.parquet"])
@pytest.mark.parametrize(
    ("names", "test_images"),
    [
        (("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"), 4),
        (("pictures-train-0.parquet", "pictures-test-0.parquet"), 4),
        (("train.parquet", "testimony.parquet"), 2),
    ],
)
def test_split_is_a_word_of_the_path(tmp_path: Path, names: tuple[str, str], test_images: int, pattern: str):
    write_parquet(tmp_path / names[0], [picture(0)] * 20, [0, 1] * 10)
    write_parquet(tmp_path / names[1], [picture(9)] * 4, [0, 1] * 2)
    data = load_image_dataset(os.path.join(tmp_path, pattern))
    assert len(data.splits["test"]) == test_images
    assert all(level(row) == 0 for row in data.splits["train"]) == (test_images == 4)


def test_webdataset_label_files_become_names_in_the_order_of_their_numbers(tmp_path: Path):
    write_tar(tmp_path / "data.tar", [10, 9] * 10, "label")
    data = load_image_dataset(str(tmp_path / "data.tar"))
    assert data.label_names == ["9", "10"]
    assert all(level(row) == (90, 100)[row["label"]] for row in data.splits["train"])


def test_declared_names_without_images_stay(tmp_path: Path):
    write_parquet(tmp_path / "data.parquet", [picture(0)] * 20, [0, 2] * 10, ClassLabel(names=["x", "unused", "y"]))
    data = load_image_dataset(str(tmp_path / "data.parquet"))
    assert data.label_names == ["x", "unused", "y"]
    assert set(data.splits["train"]["label"]) == {0, 2}


@pytest.mark.parametrize(
    ("labels", "label_type", "message"),
    [
        ([0, 1] * 4 + [None, -1], None, "2 images of the train split have no label"),
        (["a", "b"] * 4 + [None, "a"], datasets.Value("string"), "1 images of the train split have no label"),
    ],
)
def test_row_without_one_label_is_refused(tmp_path: Path, labels: list, label_type, message: str):
    write_parquet(tmp_path / "data.parquet", [picture(0)] * 10, labels, label_type)
    with pytest.raises(ValueError, match=message):
        load_image_dataset(str(tmp_path / "data.parquet"))


def test_hidden_test_labels_do_not_count_as_a_test_split(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["x", "y"])})
    for split, labels in (("train", [0, 1] * 10), ("test", [-1] * 4)):
        rows = {"image": [picture(0)] * len(labels), "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    data = load_image_dataset(str(tmp_path))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 16, "validation": 2, "test": 2}


def test_every_class_keeps_a_training_image_however_few_there_are(tmp_path: Path):
    data = load_image_dataset(str(make_folder(tmp_path, {"cat": 1, "dog": 2, "owl": 9})))
    assert set(data.splits["train"]["label"]) == {0, 1, 2}
    assert all(len(rows) for rows in data.splits.values())


def test_many_tiny_classes_give_their_share_together(tmp_path: Path):
    data = load_image_dataset(str(make_folder(tmp_path, {f"class{number}": 4 for number in range(20)})))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 65, "validation": 7, "test": 8}
    assert set(data.splits["train"]["label"]) == set(range(20))


def test_class_of_the_validation_folder_alone_is_refused_by_name(tmp_path: Path):
    make_folder(tmp_path / "train", {"cat": 3, "dog": 3})
    make_folder(tmp_path / "val", {"cat": 1, "zebra": 1})
    with pytest.raises(ValueError, match=r"the validation split has labels that train has not: \['zebra'\]"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no images in class subfolders"),
        ({"cat": 3, "dog": 0}, "class folder dog has no image that can be opened: remove it or add images"),
        ({"cat": 3}, r"has 1 class \(cat\), at least 2 are needed"),
    ],
)
def test_folder_without_enough_is_refused(tmp_path: Path, counts: dict, message: str):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(str(make_folder(tmp_path, counts)))


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


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing-v1.0"])
def test_name_that_the_hub_does_not_give_says_what_it_may_be(name: str):
    with pytest.raises(ValueError, match=f"{name} is neither digits nor a file or folder here, and as a Hub"):
        load_image_dataset(name)


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


def test_stream_has_the_rows_once(tmp_path: Path):
    make_folder(tmp_path, {"cat": 20, "dog": 20})
    data = load_image_dataset(str(tmp_path), streaming=True)
    rows = {split: list(stream) for split, stream in data.splits.items()}
    assert data.label_names == ["cat", "dog"]
    assert sum(len(part) for part in rows.values()) == 40
    assert all(level(row) == 50 * row["label"] for part in rows.values() for row in part)
    paths = [row["image"]["path"] for part in rows.values() for row in part]
    assert len(set(paths)) == 40


def test_streamed_splits_never_share_an_image_however_they_are_read(tmp_path: Path):
    for part in range(4):
        levels = range(60 * part, 60 * part + 60)
        write_parquet(tmp_path / f"part{part}.parquet", [picture(level) for level in levels], [0, 1] * 30)
    streams = load_image_dataset(str(tmp_path), streaming=True).splits

    def levels_of(*streams: datasets.IterableDataset) -> set[int]:
        return {level(row) for stream in streams for row in stream}

    once = {split: levels_of(stream) for split, stream in streams.items()}
    assert sum(len(levels) for levels in once.values()) == 240
    assert set.union(*once.values()) == set(range(240))
    assert all(10 <= len(once[split]) <= 40 for split in ("validation", "test"))
    for split, stream in streams.items():
        parts = [split_dataset_by_node(stream, rank, world_size=2) for rank in range(2)]
        assert levels_of(*parts) == once[split]
    assert levels_of(streams["train"].shuffle(seed=3, buffer_size=8)) == once["train"]


def test_stream_without_label_names_is_refused(tmp_path: Path):
    features = Features({"image": datasets.Image(), "label": datasets.Value("string")})
    rows = {"image": [picture(0)] * 4, "label": ["a", "b"] * 2}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="does not name one label an image, which --streaming needs"):
        load_image_dataset(str(tmp_path / "data.parquet"), streaming=True)
