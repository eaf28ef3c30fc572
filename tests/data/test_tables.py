"""Labels and captions from tables, as people and programs write them."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from hf_vit_suite.data import load_captioned_images, load_image_dataset

TEXTS = ["a red square", "one, with a comma", 'a "quoted" one', "gelb; schön", "türkis | blau", "two\nlines"]


def save_pictures(folder: Path, names: list[str], start: int = 0) -> None:
    """Pictures of different pixels."""
    for number, name in enumerate(names, start):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 5 * number, np.uint8)).save(path)


def written(rows: list[tuple], **dialect) -> str:
    """A table as Python's csv module writes it."""
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows([("file_name", "text"), *rows])
    return buffer.getvalue()


def captions(folder: Path, **options) -> list[list[str]]:
    """The captions of a folder's images in the order of the table."""
    data = load_captioned_images(str(folder), **options)
    assert data.skipped == []
    return data.rows["text"][:]


ROWS = [(f"{number}.png", text) for number, text in enumerate(TEXTS)]
DIALECTS = {
    "comma": (written(ROWS), "utf-8"),
    "tab": (written(ROWS, delimiter="\t"), "utf-8"),
    "semicolon": (written(ROWS, delimiter=";"), "utf-8"),
    "bar": (written(ROWS, delimiter="|"), "utf-8"),
    "all quoted": (written(ROWS, quoting=csv.QUOTE_ALL), "utf-8"),
    "Unix line ends": (written(ROWS, lineterminator="\n"), "utf-8"),
    "byte order mark": (written(ROWS), "utf-8-sig"),
    "UTF-16": (written(ROWS), "utf-16"),
    "UTF-32": (written(ROWS, delimiter="\t"), "utf-32"),
    "blank lines": (written(ROWS).replace("0.png", "\r\n0.png", 1) + "\r\n\r\n", "utf-8"),
    "pandas": (pandas.DataFrame(ROWS, columns=["file_name", "text"]).to_csv(index=False), "utf-8"),
    "pandas with index": (pandas.DataFrame(ROWS, columns=["file_name", "text"]).to_csv(), "utf-8"),
    "other columns": (written([(name, text, "x") for name, text in ROWS]).replace("text", "text,more", 1), "utf-8"),
}


@pytest.mark.parametrize("name", ["metadata.csv", "Metadata.TSV"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_table_of_any_dialect_gives_the_texts_that_were_written(tmp_path: Path, dialect: str, name: str):
    save_pictures(tmp_path, [name for name, _ in ROWS])
    text, encoding = DIALECTS[dialect]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert captions(tmp_path) == [[text] for text in TEXTS]


@pytest.mark.parametrize(
    "texts",
    [
        ["1", "2", "3"], ["1.50", "2.00", "1e5"], ["true", "False", "TRUE"], ["None", "NA", "nan"], ["000", "0x1F"],
        ["2020-01-01", "12:30", "1,000"], ["-inf", "Infinity", "NULL"], ["٣", "½", "１"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_what_looks_like_another_type_stays_text(tmp_path: Path, texts: list[str], kind: str):
    rows = [(f"{number}.png", text) for number, text in enumerate(texts)]
    save_pictures(tmp_path, [name for name, _ in rows])
    table = {
        "csv": written(rows),
        "tsv": written(rows, delimiter="\t"),
        "jsonl": "\n".join(json.dumps({"file_name": name, "text": text}) for name, text in rows),
    }
    (tmp_path / f"metadata.{kind}").write_text(table[kind], encoding="utf-8")
    assert captions(tmp_path) == [[text] for text in texts]


def test_json_numbers_and_truth_values_are_the_texts_in_the_file(tmp_path: Path):
    values = ["0.50", "007e1".lstrip("0"), "true", '[1, null, "", 2.0]']
    save_pictures(tmp_path, [f"{number}.png" for number in range(4)])
    lines = [f'{{"file_name": "{number}.png", "text": {value}}}' for number, value in enumerate(values)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    assert captions(tmp_path) == [["0.50"], ["7e1"], ["true"], ["1", "2.0"]]


@pytest.mark.parametrize(
    ("line", "expected"),
    [('"blue" car', '"blue" car'), ('5" wheel', '5" wheel'), ('"open', '"open'), ("'single'", "'single'")],
)
def test_quotation_marks_that_quote_nothing_stay_in_tab_separated_tables(tmp_path: Path, line: str, expected: str):
    save_pictures(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.tsv").write_text(f"file_name\ttext\n0.png\t{line}\n1.png\tplain\n")
    assert captions(tmp_path) == [[expected], ["plain"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file_name,text\n0.png,a, b\n",
            r"metadata.csv, line 2: 3 fields where the header has 2: quote a text",
        ),
        (b'file_name,text\n0.png,"open\n1.png,b\n', "metadata.csv: a quotation mark is not closed or not doubled"),
        (b'file_name,text\n0.png,"a" b\n', "metadata.csv: a quotation mark is not closed or not doubled"),
        (
            "file_name,text\n0.png,grün\n".encode("latin-1"),
            r"metadata.csv is not encoded in UTF-8 \(line 2\): save",
        ),
        ("file_name,text\n0.png,a\n".encode("utf-16-le"), "metadata.csv is not encoded in UTF-8 .it has zero bytes"),
        ("file_name,text\n0.png,青\n".encode("shift-jis"), r"metadata.csv is not encoded in UTF-8 \(line 2\)"),
        (b"", "metadata.csv is empty"),
        (b"id,text\n0.png,a\n", "metadata.csv has the columns id, text: expected file_name and text"),
        (
            b"file_name,title\n0.png,a\n",
            r"metadata.csv has the columns file_name, title: expected file_name and text, or .*--text_column",
        ),
        (b"file_name,text\n,a\n", "a row has no file name in its column file_name"),
        (b"file_name,text\n7.png,a\n", "names no image that is there, such as 7.png"),
    ],
)
def test_table_that_is_not_understood_is_one_line(tmp_path: Path, content: bytes, message: str):
    save_pictures(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_captioned_images(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "0.png", "text": "a"}\n{"file_name": ', "metadata.jsonl, line 2: no JSON"),
        ('["0.png", "a"]', "metadata.jsonl, line 1: expected a JSON object"),
    ],
)
def test_json_that_is_not_understood_is_one_line(tmp_path: Path, content: str, message: str):
    save_pictures(tmp_path, ["0.png"])
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_captioned_images(str(tmp_path))


NAMES = {
    "images\\0.png": "images/0.png",
    "./images/0.png": "images/0.png",
    "images//0.png": "images/0.png",
    " images/0.png ": "images/0.png",
    "IMAGES/0.PNG": "images/0.png",
    unicodedata.normalize("NFD", "café.png"): unicodedata.normalize("NFC", "café.png"),
    unicodedata.normalize("NFC", "zoë/ñ.png"): unicodedata.normalize("NFD", "zoë/ñ.png"),
    "a b, [c] $d.png": "a b, [c] $d.png",
    "x/../images/0.png": "images/0.png",
}


@pytest.mark.parametrize("name", NAMES)
def test_file_is_found_as_other_systems_write_its_name(tmp_path: Path, name: str):
    save_pictures(tmp_path, [NAMES[name], "other.png"])
    rows = [(name, "this"), ("other.png", "that")]
    (tmp_path / "metadata.csv").write_text(written(rows), encoding="utf-8")
    data = load_captioned_images(str(tmp_path))
    assert data.rows["text"][:] == [["this"], ["that"]]
    assert data.rows[0]["image"]["path"] == str(tmp_path / NAMES[name])


def test_absolute_names_and_tables_in_folders_of_their_own(tmp_path: Path):
    save_pictures(tmp_path / "data", ["a/0.png", "b/1.png"])
    save_pictures(tmp_path, ["elsewhere.png"], start=9)
    (tmp_path / "data" / "a" / "metadata.csv").write_text("file_name,text\n0.png,first\n")
    rows = [(str(tmp_path / "data" / "b" / "1.png"), "second"), (str(tmp_path / "elsewhere.png"), "third")]
    (tmp_path / "data" / "b" / "metadata.csv").write_text(written(rows))
    assert captions(tmp_path / "data") == [["first"], ["second"], ["third"]]


@pytest.mark.parametrize("name", ["captions.txt", "captions.csv"])
def test_table_of_another_name_is_given_as_the_data_set(tmp_path: Path, name: str):
    save_pictures(tmp_path, ["0.png", "1.png"])
    (tmp_path / name).write_text("image,caption\n0.png,a\n1.png,b\n")
    if name.endswith(".txt"):
        with pytest.raises(ValueError, match=r"a table of images \(.csv, .tsv, .jsonl\), .* got captions.txt"):
            captions(tmp_path / name)
        (tmp_path / name).rename(tmp_path / "captions.csv")
    with pytest.raises(ValueError, match=r"no captions, expected a file .*; rename captions.csv, or give it"):
        captions(tmp_path)
    assert captions(tmp_path / "captions.csv") == [["a"], ["b"]]


def test_several_rows_of_an_image_are_several_captions(tmp_path: Path):
    save_pictures(tmp_path, ["0.png", "1.png"])
    rows = [(f"{number % 2}.png", f"caption {number}") for number in range(6)]
    (tmp_path / "metadata.csv").write_text(written(rows))
    assert captions(tmp_path) == [["caption 0", "caption 2", "caption 4"], ["caption 1", "caption 3", "caption 5"]]
    assert len(load_captioned_images(str(tmp_path), one_row_an_image=False).rows) == 6


@pytest.mark.parametrize("column", ["label", "labels", "Species"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_of_a_table(tmp_path: Path, suffix: str, column: str):
    save_pictures(tmp_path, [f"img/{number}.png" for number in range(20)])
    table = pandas.DataFrame({"file_name": [f"img/{n}.png" for n in range(20)], column: ["cat", "dog"] * 10})
    path = tmp_path / f"metadata.{suffix}"
    {
        "csv": lambda: table.to_csv(path, index=False),
        "jsonl": lambda: table.to_json(path, orient="records", lines=True),
        "parquet": lambda: table.to_parquet(path),
    }[suffix]()
    given = {"label_column": column} if column == "Species" else {}
    data = load_image_dataset(str(tmp_path), **given)
    assert data.label_names == ["cat", "dog"]
    for rows in data.splits.values():
        assert all(row["label"] == int(Path(row["image"]["path"]).stem) % 2 for row in rows)
    assert "2 classes, 20 train images in a table" in data.reading.summary


def test_class_folders_with_a_table_of_labels_are_a_question_unless_it_has_none(tmp_path: Path):
    save_pictures(tmp_path, [f"{label}/{number}.png" for label in "ab" for number in range(5)])
    rows = [(f"{label}/{number}.png", "xy"[number % 2]) for label in "ab" for number in range(5)]
    (tmp_path / "metadata.csv").write_text(written(rows))
    assert load_image_dataset(str(tmp_path)).label_names == ["a", "b"]
    (tmp_path / "metadata.csv").write_text(written(rows).replace("text", "label", 1))
    with pytest.raises(ValueError, match=r"class folders \(--layout class_folders\), or images with labels in m"):
        load_image_dataset(str(tmp_path))
    assert load_image_dataset(str(tmp_path), layout="metadata").label_names == ["x", "y"]
    assert load_image_dataset(str(tmp_path), layout="class_folders").label_names == ["a", "b"]


def test_images_without_a_row_are_named_and_stop_a_strict_run(tmp_path: Path, caplog):
    save_pictures(tmp_path, [f"{number}.png" for number in range(12)])
    rows = [(f"{number}.png", "ab"[number % 2]) for number in range(10)]
    (tmp_path / "metadata.csv").write_text(written(rows).replace("text", "label", 1))
    data = load_image_dataset(str(tmp_path))
    assert data.skipped == [f"{tmp_path}/{number}.png has no label" for number in (10, 11)]
    assert "skipped 2 images without a label" in caplog.text
    with pytest.raises(ValueError, match=r"2 images without a label: .*10.png"):
        load_image_dataset(str(tmp_path), strict_images=True)


def test_two_labels_of_one_image_are_a_question(tmp_path: Path):
    save_pictures(tmp_path, [f"{number}.png" for number in range(6)])
    rows = [(f"{number}.png", "ab"[number % 2]) for number in range(6)]
    (tmp_path / "metadata.csv").write_text(written([*rows, rows[0]]).replace("text", "label", 1))
    assert sum(map(len, load_image_dataset(str(tmp_path)).splits.values())) == 6
    (tmp_path / "metadata.csv").write_text(written([*rows, ("0.png", "b")]).replace("text", "label", 1))
    with pytest.raises(ValueError, match=r"0.png has the labels a and b: give --problem_type multi_label"):
        load_image_dataset(str(tmp_path))
    data = load_image_dataset(str(tmp_path), problem_type="multi_label_classification")
    assert [1.0, 1.0] in [row["label"] for rows in data.splits.values() for row in rows]


def test_lists_in_a_column_named_by_option_are_several_labels(tmp_path: Path):
    save_pictures(tmp_path, [f"{number}.png" for number in range(12)])
    lines = [json.dumps({"file_name": f"{number}.png", "kinds": ["a", "b"][: 1 + number % 2]}) for number in range(12)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = load_image_dataset(str(tmp_path), label_column="kinds")
    assert data.label_names == ["a", "b"]
    assert {tuple(row["label"]) for rows in data.splits.values() for row in rows} == {(1.0, 0.0), (1.0, 1.0)}


@pytest.mark.parametrize("below", ["", "archive/", "archive/photos/"])
def test_described_images_of_test_folders_are_no_training_images(tmp_path: Path, below: str):
    names = [f"{below}{split}/{number}.png" for split in ("Train", "test") for number in range(8)]
    save_pictures(tmp_path, names)
    rows = [(name, "ab"[number % 2]) for number, name in enumerate(names)]
    (tmp_path / "metadata.csv").write_text(written(rows).replace("text", "label", 1))
    data = load_image_dataset(str(tmp_path), validation_fraction=0.2)
    assert {Path(row["image"]["path"]).parent.name for row in data.splits["test"]} == {"test"}
    assert len(data.splits["test"]) == 8


def test_described_image_outside_the_split_folders_is_refused(tmp_path: Path):
    save_pictures(tmp_path / "data", ["train/0.png", "test/1.png"])
    save_pictures(tmp_path, ["elsewhere.png"])
    rows = [("train/0.png", "a"), ("test/1.png", "b"), (str(tmp_path / "elsewhere.png"), "c")]
    (tmp_path / "data" / "metadata.csv").write_text(written(rows))
    with pytest.raises(ValueError, match=r"elsewhere.png lies outside the split folders: move it into one"):
        load_captioned_images(str(tmp_path / "data"))


def test_a_second_table_of_the_same_rows_adds_no_caption(tmp_path: Path):
    save_pictures(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n1.png,b\n")
    lines = [{"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "another b"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions(tmp_path) == [["a"], ["b", "another b"]]


def test_lists_of_captions_are_read_as_json_and_python_write_them(tmp_path: Path):
    save_pictures(tmp_path, [f"{number}.png" for number in range(4)])
    rows = [("0.png", '["a dog", "it\'s one"]'), ("1.png", "['b', \"c\"]"), ("2.png", "[music]"), ("3.png", "[1, 2]")]
    (tmp_path / "metadata.csv").write_text(written(rows))
    assert captions(tmp_path) == [["a dog", "it's one"], ["b", "c"], ["[music]"], ["[1, 2]"]]


def test_a_table_beside_the_folder_of_images_is_read(tmp_path: Path):
    save_pictures(tmp_path / "images", ["0.png", "1.png"])
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("file_name,text\n../images/0.png,a\n../images/1.png,b\n")
    assert captions(tmp_path / "csv" / "train.csv") == [["a"], ["b"]]


@pytest.mark.parametrize("value", [[{"raw": "a"}], [["a"]], [1, {"b": 2}]])
def test_captions_that_are_no_texts_are_refused(tmp_path: Path, value: list):
    save_pictures(tmp_path, ["0.png"])
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": value}))
    with pytest.raises(ValueError, match=r"metadata.jsonl: expected texts as texts, 0.png has"):
        load_captioned_images(str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_strict_images_stops_at_an_image_without_a_row(tmp_path: Path, streaming: bool):
    save_pictures(tmp_path, ["0.png", "1.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text\n0.png,a\n")
    with pytest.raises(ValueError, match=r"1.png has no caption"):
        load_captioned_images(str(tmp_path), streaming=streaming, strict_images=True)


def test_rows_of_a_layout_that_is_chosen_are_read_beside_other_folders(tmp_path: Path):
    save_pictures(tmp_path, ["train/0.png", "test/1.png", "extra/2.png"])
    (tmp_path / "metadata.csv").write_text("file_name,text\ntrain/0.png,a\ntest/1.png,b\nextra/2.png,c\n")
    with pytest.raises(ValueError, match=r"--split_names .* or training images alone .--layout metadata"):
        load_captioned_images(str(tmp_path))
    assert captions(tmp_path, layout="metadata") == [["a"], ["b"], ["c"]]
    assert captions(tmp_path, split_names=["train=train", "test=test"]) == [["a"]]
