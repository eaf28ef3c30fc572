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
        ([f"gone/{number}.png" for number in range(NUMBER)], "has no readable image|gone/0.png"),
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
    with pytest.raises(ValueError, match=r"a.parquet and .*b.parquet declare other classes in label"):
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
