"""Parquet files as pyarrow, pandas, polars and `datasets` write them."""

import base64
import io
from pathlib import Path

import datasets
import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features
from PIL import Image

from hf_vit_suite.data import decode_image, load_captioned_images, load_image_dataset, load_unlabelled_images

NUMBER = 20
PIXELS = [np.full((6, 8, 3), 10 * number, np.uint8) for number in range(NUMBER)]
LABELS = [("red", "green")[number % 2] for number in range(NUMBER)]


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


BYTES = [encoded(pixels) for pixels in PIXELS]
TEXTS = [base64.b64encode(content).decode() for content in BYTES]
STRUCTS = [{"bytes": content, "path": f"{number}.png"} for number, content in enumerate(BYTES)]
IMAGES = {
    "bytes": BYTES,
    "large bytes": pa.array(BYTES, pa.large_binary()),
    "bytes and path": STRUCTS,
    "bytes alone": [{"bytes": content} for content in BYTES],
    "lists of one": [[struct] for struct in STRUCTS],
    "lists of bytes": [[content] for content in BYTES],
    "base64": TEXTS,
    "base64 with line breaks": [text[:20] + "\n" + text[20:] for text in TEXTS],
    "data URI": [f"data:image/png;base64,{text}" for text in TEXTS],
    "large text": pa.array(TEXTS, pa.large_string()),
    "arrays": [pixels.tolist() for pixels in PIXELS],
    "channels first": [pixels.transpose(2, 0, 1).tolist() for pixels in PIXELS],
    "grey arrays": [pixels[..., 0].tolist() for pixels in PIXELS],
    "uint8 arrays": pa.array([pixels.tolist() for pixels in PIXELS], pa.list_(pa.list_(pa.list_(pa.uint8())))),
}


def numbers(rows) -> list[int]:
    """The numbers of the pictures."""
    return [decode_image(row["image"]).getpixel((0, 0))[0] // 10 for row in rows]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", IMAGES)
def test_images_in_any_form_are_read(tmp_path: Path, kind: str, streaming: bool):
    pq.write_table(pa.table({"image": IMAGES[kind], "label": LABELS}), tmp_path / "a.parquet")
    assert numbers(load_unlabelled_images(str(tmp_path), streaming=streaming).rows) == list(range(NUMBER))
    if not streaming:
        data = load_image_dataset(str(tmp_path))
        assert data.label_names == ["green", "red"]
        assert data.skipped == []
        for rows in data.splits.values():
            assert [data.label_names[row["label"]] for row in rows] == [LABELS[number] for number in numbers(rows)]


@pytest.mark.parametrize("where", ["absolute", "beside the file", "below", "as struct"])
def test_paths_are_found_relative_to_the_file(tmp_path: Path, where: str):
    folder = tmp_path / "files"
    folder.mkdir()
    for number, content in enumerate(BYTES):
        (folder / f"{number}.png").write_bytes(content)
    below = {"absolute": f"{folder}/", "beside the file": "", "below": "files/", "as struct": "files/"}[where]
    paths = [f"{below}{number}.png" for number in range(NUMBER)]
    column = [{"bytes": None, "path": path} for path in paths] if where == "as struct" else paths
    path = (folder if where == "beside the file" else tmp_path) / "a.parquet"
    pq.write_table(pa.table({"image": column, "label": LABELS}), path)
    data = load_image_dataset(str(path))
    assert data.skipped == []
    assert sorted(number for rows in data.splits.values() for number in numbers(rows)) == list(range(NUMBER))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[content, content] for content in BYTES], "a row holds 2 images, expected one"),
        ([(pixels / 255).tolist() for pixels in PIXELS], "float64: give PIL images or 8-bit values"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(tmp_path: Path, column: list, message: str):
    pq.write_table(pa.table({"image": column, "label": LABELS}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message) as error:
        load_unlabelled_images(str(tmp_path))
    assert "\n" not in str(error.value)


LABEL_COLUMNS = {
    "text": (LABELS, ["green", "red"]),
    "dictionary": (pa.array(LABELS).dictionary_encode(), ["green", "red"]),
    "large text": (pa.array(LABELS, pa.large_string()), ["green", "red"]),
    "8 bits": (pa.array([number % 2 for number in range(NUMBER)], pa.int8()), ["0", "1"]),
    "unsigned": (pa.array([10 - number % 2 for number in range(NUMBER)], pa.uint16()), ["9", "10"]),
    "truth values": ([number % 2 == 0 for number in range(NUMBER)], ["False", "True"]),
    "whole decimals": ([float(number % 3) for number in range(NUMBER)], ["0", "1", "2"]),
    "bytes": ([label.encode() for label in LABELS], ["green", "red"]),
    "padded": ([f" {label} " for label in LABELS], ["green", "red"]),
    "lists of one": ([[label] for label in LABELS], ["green", "red"]),
}


@pytest.mark.parametrize("kind", LABEL_COLUMNS)
def test_labels_of_any_type_are_classes(tmp_path: Path, kind: str):
    column, names = LABEL_COLUMNS[kind]
    pq.write_table(pa.table({"image": BYTES, "label": column}), tmp_path / "a.parquet")
    data = load_image_dataset(str(tmp_path))
    assert data.label_names == names
    assert data.problem_type == "single_label_classification"


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_missing_labels_are_counted(tmp_path: Path, missing):
    labels = [missing if number in (3, 7) else "ab"[number % 2] for number in range(NUMBER)]
    if missing != missing:
        labels = [missing if label is missing else float("ab".index(label)) for label in labels]
    pq.write_table(pa.table({"image": BYTES, "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="2 images of the train split have no label: remove them"):
        load_image_dataset(str(tmp_path))


def test_pandas_index_and_other_columns_are_passed_over(tmp_path: Path):
    table = pandas.DataFrame({"image": BYTES, "label": LABELS, "when": pandas.Timestamp("2020-01-01")})
    table.index = [f"row {number}" for number in range(NUMBER)]
    table.to_parquet(tmp_path / "a.parquet")
    assert load_image_dataset(str(tmp_path)).label_names == ["green", "red"]


def test_polars_columns_are_read(tmp_path: Path):
    polars.DataFrame({"image": BYTES, "label": LABELS}).write_parquet(tmp_path / "a.parquet")
    assert load_image_dataset(str(tmp_path)).label_names == ["green", "red"]


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        (pa.array([None] * NUMBER), LABELS, None),
        ([number % 2 for number in range(NUMBER)], [float(number % 2) for number in range(NUMBER)], ["0", "1"]),
        (pa.array([1, 2] * 10, pa.int8()), pa.array([1, 2] * 10, pa.int64()), ["1", "2"]),
        (pa.array(LABELS, pa.large_string()), LABELS, ["green", "red"]),
    ],
    ids=["null column", "whole and decimal", "widths", "text types"],
)
def test_files_may_give_a_column_different_types(tmp_path: Path, first, second, names: list[str] | None):
    for name, labels in (("a", first), ("b", second)):
        pq.write_table(pa.table({"image": BYTES, "label": labels}), tmp_path / f"{name}.parquet")
    assert len(load_unlabelled_images(str(tmp_path)).rows) == 2 * NUMBER
    if names is None:
        with pytest.raises(ValueError, match="20 images of the train split have no label"):
            load_image_dataset(str(tmp_path))
    else:
        assert load_image_dataset(str(tmp_path)).label_names == names


def test_files_that_name_their_classes_differently_are_refused(tmp_path: Path):
    for name, classes in (("a", ["x", "y"]), ("b", ["y", "x"])):
        features = Features({"image": datasets.Image(), "label": ClassLabel(names=classes)})
        rows = {"image": [Image.new("RGB", (4, 4))] * 4, "label": [0, 1] * 2}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"a.parquet and .*b.parquet have different classes in label"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("kind", ["bytes", "arrays", "base64", "lists of bytes"])
def test_data_set_objects_go_the_same_way(kind: str):
    rows = Dataset.from_dict({"image": IMAGES[kind], "label": LABELS})
    data = load_image_dataset(
        DatasetDict({"train": rows, "holdout": rows}), split_names=["train=train", "test=holdout"]
    )
    assert data.label_names == ["green", "red"]
    assert numbers(data.splits["test"]) == list(range(NUMBER))
    assert numbers(load_unlabelled_images(rows).rows) == list(range(NUMBER))
    captions = load_captioned_images(Dataset.from_dict({"image": IMAGES[kind], "text": LABELS}))
    assert captions.rows["text"][:] == [[label] for label in LABELS]


def rows_with_paths(folder: Path, numbers: list[int]) -> None:
    """A table of pictures by relative path, and the pictures beside it."""
    for index, number in enumerate(numbers):
        path = folder / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(BYTES[number])
    rows = {
        "image": [f"{index}.png" for index in range(len(numbers))],
        "label": ["ab"[index % 2] for index in numbers],
    }
    pq.write_table(pa.table(rows), folder / "data.parquet")


def test_a_path_in_a_table_is_relative_to_the_folder_of_its_own_file(tmp_path: Path):
    rows_with_paths(tmp_path / "train", list(range(8)))
    rows_with_paths(tmp_path / "test", list(range(8, 12)))
    (tmp_path / "test" / "other.png").write_bytes(BYTES[0])
    data = load_image_dataset(str(tmp_path))
    assert numbers(data.splits["test"]) == [8, 9, 10, 11]
    assert sorted(numbers(data.splits["train"]) + numbers(data.splits["validation"])) == list(range(8))
    assert [name for names in data.reading.ignored.values() for name in names] == ["test/other.png"]
    streamed = load_captioned_images(str(tmp_path), split="test", text_column="label", streaming=True)
    assert numbers(streamed.rows) == [8, 9, 10, 11]


def test_a_path_that_two_folders_have_is_refused(tmp_path: Path):
    rows_with_paths(tmp_path / "a", [0, 1, 2])
    rows_with_paths(tmp_path / "b", [3, 4, 5])
    with pytest.raises(ValueError, match=r"0.png may be .*/a/0.png or .*/b/0.png"):
        load_image_dataset(str(tmp_path), layout="parquet")


def split_files(folder: Path, *names: str) -> None:
    """A file of four pictures under each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": BYTES[:4], "label": LABELS[:4]}), folder / name)


@pytest.mark.parametrize(
    "names",
    [
        ("train-0", "test-0", "holdout-0"),
        ("train-0", "val-0", "eval-0"),
        ("train-0", "heldout-0"),
        ("data/train-0", "data/validation-0", "extra/data-0"),
    ],
)
def test_a_file_of_no_split_beside_splits_is_ambiguous(tmp_path: Path, names: tuple[str, ...]):
    split_files(tmp_path, *(f"{name}.parquet" for name in names))
    with pytest.raises(ValueError, match=f"{names[-1]}.parquet is left out .--split_names train=train"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("names", [("val-0", "test-0"), ("dev_0", "testing_0"), ("valid/a", "test/a")])
def test_splits_without_one_for_training_are_refused(tmp_path: Path, names: tuple[str, ...]):
    split_files(tmp_path, *(f"{name}.parquet" for name in names))
    with pytest.raises(ValueError, match=r"holds the splits .* but no training images: choose by --split_names"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "given", "test"),
    [
        (("train_0", "train_1", "test_0"), ["train=train", "test=test"], 4),
        (("Part1", "Part10", "Part2"), ["train=Part1", "test=Part10"], 4),
        (("fold1/a", "fold2/a", "fold2/b"), ["train=fold1", "test=fold2"], 8),
    ],
)
def test_chosen_names_are_words_of_the_path(tmp_path: Path, names: tuple[str, ...], given: list[str], test: int):
    split_files(tmp_path, *(f"{name}.parquet" for name in names))
    data = load_image_dataset(str(tmp_path), split_names=given, validation_fraction=0.3)
    left = [name for files in data.reading.ignored.values() for name in files]
    assert len(data.splits["test"]) == test
    read = len(data.splits["train"]) + len(data.splits["validation"]) + test
    assert read + 4 * len(left) == 4 * len(names)


def test_a_file_is_never_in_two_splits(tmp_path: Path):
    split_files(tmp_path, "data/train.parquet", "data/test.parquet")
    with pytest.raises(
        ValueError, match=r"data/test.parquet belongs to two of --split_names, train=data and test=test"
    ):
        load_image_dataset(str(tmp_path), split_names=["train=data", "test=test"])


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["train=a", "test=a"], "a twice"),
        (["train=a", "train=b"], "train twice"),
        (["train=a", "validation=b", "test=b"], "b twice"),
    ],
)
def test_each_split_has_one_name(given: list[str], what: str):
    with pytest.raises(ValueError, match=f"--split_names gives {what}"):
        load_image_dataset("digits", split_names=given)


def test_files_of_splits_that_pretraining_does_not_read_are_named(tmp_path: Path):
    split_files(tmp_path, "train-0.parquet", "test-0.parquet", "test-1.parquet")
    data = load_unlabelled_images(str(tmp_path))
    assert len(data.rows) == 4
    assert data.reading.ignored == {"of splits that are not read": ["test-0.parquet", "test-1.parquet"]}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("chosen", [None, "meta.kind.name"])
@pytest.mark.parametrize("form", ["bytes", "bytes and path", "bytes alone", "lists of one"])
def test_nested_columns_have_names_with_dots(tmp_path: Path, streaming: bool, chosen: str | None, form: str):
    nested = [{"kind": {"name": f"{label} {number}"}, "id": number} for number, label in enumerate(LABELS)]
    pq.write_table(pa.table({"image": IMAGES[form], "text": LABELS, "meta": nested}), tmp_path / "a.parquet")
    data = load_captioned_images(str(tmp_path), text_column=chosen, streaming=streaming)
    expected = [f"{label} {number}" if chosen else label for number, label in enumerate(LABELS)]
    assert [row["text"] for row in data.rows] == [[text] for text in expected]
    assert numbers(data.rows) == list(range(NUMBER))


@pytest.mark.parametrize("kind", [ClassLabel, lambda names: datasets.List(ClassLabel(names=names))])
def test_files_with_classes_in_another_order_are_refused(tmp_path: Path, kind):
    for name, classes in (("train", ["x", "y"]), ("test", ["y", "x"])):
        feature = kind(names=classes) if kind is ClassLabel else kind(classes)
        labels = [0, 1] * 4 if kind is ClassLabel else [[0], [0, 1]] * 4
        features = Features({"image": datasets.Image(), "label": feature})
        rows = {"image": [Image.fromarray(pixels) for pixels in PIXELS[:8]], "label": labels}
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match="have different classes in label"):
        load_image_dataset(str(tmp_path))


def test_a_usual_name_wins_over_a_type_and_two_types_are_a_question(tmp_path: Path):
    pictures = [Image.fromarray(pixels) for pixels in PIXELS[:8]]
    features = {"image": datasets.Image(), "a": ClassLabel(names=["x", "y"]), "b": ClassLabel(names=["p", "q"])}
    columns = {"image": pictures, "a": [0, 1] * 4, "b": [1, 0] * 4}
    rows = Dataset.from_dict(columns, features=Features(features))
    with pytest.raises(ValueError, match="several columns that may be the label, a, b: choose one by --label_column"):
        load_image_dataset(rows)
    named = rows.add_column("label", ["cat", "dog"] * 4)
    assert load_image_dataset(named, validation_fraction=0.3).label_names == ["cat", "dog"]
    features = Features({"photo": datasets.Image(), "other": datasets.Image()})
    masks = Dataset.from_dict({"photo": pictures, "other": pictures}, features=features)
    with pytest.raises(ValueError, match="several columns that may be the image, photo, other"):
        load_unlabelled_images(masks)
    numbered = rows.rename_column("image", "photo").add_column("image", list(range(8)))
    assert numbers(load_unlabelled_images(numbered).rows) == list(range(8))


def test_a_split_without_the_labels_is_one_line(tmp_path: Path):
    split_files(tmp_path, "train.parquet")
    rows = DatasetDict(
        train=Dataset.from_dict({"image": BYTES[:8], "label": LABELS[:8]}),
        test=Dataset.from_dict({"image": BYTES[:2]}),
    )
    with pytest.raises(ValueError, match="the test split has no column label: leave the split out by --split_names"):
        load_image_dataset(rows)


def test_a_file_without_rows_is_named(tmp_path: Path):
    split_files(tmp_path, "part-0.parquet", "part-1.parquet", "part-2.parquet")
    table = pq.read_table(tmp_path / "part-1.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "part-1.parquet")
    data = load_image_dataset(str(tmp_path), validation_fraction=0.3)
    assert sum(map(len, data.splits.values())) == 8
    assert data.reading.ignored == {"without rows": ["part-1.parquet"]}
