"""Labels: one, several or numbers to regress, from any source, the same in every split."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_vit_suite.data import decode_image, load_image_dataset

NUMBER = 20
MULTI = "multi_label_classification"


def dataset(labels, feature=None, column: str = "label", **more) -> Dataset:
    """Pictures whose grey is their number, with these labels."""
    images = [Image.fromarray(np.full((4, 4, 3), number, np.uint8)) for number in range(len(labels))]
    rows = Dataset.from_dict({"image": images, column: labels, **more})
    features = Features({**rows.features, "image": ImageFeature(), **({column: feature} if feature else {})})
    return rows.cast(features)


def by_number(data) -> dict[int, list[float]]:
    """The label of each picture."""
    rows = [row for split in data.splits.values() for row in split]
    return {decode_image(row["image"]).getpixel((0, 0))[0]: row["label"] for row in rows}


HOT = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]] * 5
NAMES = [["a", "c"], ["b"], [], ["b", "a"]] * 5
INDICES = [["abc".index(name) for name in names] for names in NAMES]
FORMS = {
    "names": (NAMES, None, ["a", "b", "c"]),
    "numbers of classes": (INDICES, List(ClassLabel(names=["a", "b", "c"])), ["a", "b", "c"]),
    "numbers": ([["abc".index(name) + 7 for name in names] for names in NAMES], None, ["7", "8", "9"]),
    "multi-hot": ([[int(flag) for flag in flags] for flags in HOT], None, ["0", "1", "2"]),
    "truth values": ([[bool(flag) for flag in flags] for flags in HOT], None, ["0", "1", "2"]),
    "decimals": (HOT, None, ["0", "1", "2"]),
    "nulls in lists": ([[*names, None] for names in NAMES], List(Value("string")), ["a", "b", "c"]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_lists_are_several_labels(form: str):
    labels, feature, names = FORMS[form]
    data = load_image_dataset(dataset(labels, feature))
    assert data.problem_type == MULTI
    assert data.label_names == names
    assert by_number(data) == dict(enumerate(HOT))


@pytest.mark.parametrize("values", [(0, 1), (False, True), ("0", "1"), ("no", "yes")])
def test_several_columns_are_several_labels(values: tuple):
    columns = {
        name: [values[int(flags[index])] for flags in HOT] for index, name in enumerate(("dent", "rust", "crack"))
    }
    rows = dataset(columns.pop("dent"), column="dent", **columns)
    if values == ("no", "yes"):
        with pytest.raises(ValueError, match=r"expected 3 labels of 0 or 1 for each image, got \['"):
            load_image_dataset(rows, label_column="dent,rust,crack", problem_type=MULTI)
        return
    data = load_image_dataset(rows, label_column="dent,rust,crack")
    assert data.label_names == ["dent", "rust", "crack"]
    assert by_number(data) == dict(enumerate(HOT))


CELLS = {
    "bars": "|".join,
    "semicolons": "; ".join,
    "commas": ",".join,
    "JSON": json.dumps,
    "Python": str,
}


@pytest.mark.parametrize("form", CELLS)
def test_cells_of_a_table_list_several_labels(tmp_path: Path, form: str):
    labels = [names or ["b"] for names in NAMES]
    for number in range(NUMBER):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(NUMBER)]
    table = pandas.DataFrame({"file_name": files, "labels": [CELLS[form](names) for names in labels]})
    table.to_csv(tmp_path / "metadata.csv", index=False)
    data = load_image_dataset(str(tmp_path), problem_type=MULTI)
    assert data.label_names == ["a", "b", "c"]
    assert by_number(data) == {number: [float(name in names) for name in "abc"] for number, names in enumerate(labels)}


def test_columns_of_a_table_are_several_labels(tmp_path: Path):
    for number in range(NUMBER):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    table = pandas.DataFrame([[int(flag) for flag in flags] for flags in HOT], columns=["x", "y", "z"])
    table.insert(0, "file_name", [f"{number}.png" for number in range(NUMBER)])
    table.to_csv(tmp_path / "metadata.csv", index=False)
    data = load_image_dataset(str(tmp_path), label_column="x,y,z")
    assert data.label_names == ["x", "y", "z"]
    assert data.problem_type == MULTI
    assert by_number(data) == dict(enumerate(HOT))


def test_lists_of_one_are_one_label():
    data = load_image_dataset(dataset([["cat"], ["dog"]] * 10))
    assert data.problem_type == "single_label_classification"
    assert data.label_names == ["cat", "dog"]


def test_each_image_with_one_label_may_be_taken_as_several():
    data = load_image_dataset(dataset(["cat", "dog"] * 10), problem_type=MULTI)
    assert by_number(data) == {number: [float(number % 2 == 0), float(number % 2)] for number in range(NUMBER)}


@pytest.mark.parametrize("values", [[0.5, 1.5], [-1.0, 2.25], ["1.5", "2.0"], ["0.0", "1e-3"]])
def test_decimal_labels_are_a_question_that_an_option_answers(values: list):
    rows = dataset(values * 10)
    with pytest.raises(
        ValueError, match=r"labels are decimal numbers: give --problem_type regression .* or --problem_type single"
    ):
        load_image_dataset(rows)
    data = load_image_dataset(rows, problem_type="regression")
    assert data.label_names == ["value"]
    assert by_number(data)[1] == pytest.approx([float(values[1])])
    assert len(load_image_dataset(rows, problem_type="single_label_classification").label_names) == 2


@pytest.mark.parametrize("values", [[3, 4], ["3", "4"], [3.0, 4.0]])
def test_whole_numbers_are_classes_unless_asked(values: list):
    assert load_image_dataset(dataset(values * 10)).label_names == ["3", "4"]
    assert by_number(load_image_dataset(dataset(values * 10), problem_type="regression"))[0] == [3.0]


def test_several_targets_are_named_by_their_columns():
    rows = dataset([0.25 * number for number in range(NUMBER)], column="x", y=list(range(NUMBER)))
    data = load_image_dataset(rows, label_column="x,y", problem_type="regression")
    assert data.label_names == ["x", "y"]
    assert by_number(data) == {number: [0.25 * number, float(number)] for number in range(NUMBER)}


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0.5, 1.0]] * 10, {}, "labels are lists of decimal numbers: give --problem_type regression"),
        (["a", "b"] * 5, {"problem_type": "regression"}, "regression needs 1 number for each image, a label of"),
        ([[1.0, 2.0]] * 9 + [[1.0]], {"problem_type": "regression"}, "regression needs|float"),
        ([[]] * 10, {"problem_type": MULTI}, "no training image has a label"),
        (
            ["a", "b"] * 5,
            {"problem_type": "several"},
            "problem_type must be one of single_label_classification, multi",
        ),
        ([["a"], ["a", "b"]] * 5, {"problem_type": "single_label_classification"}, "expected a number or a string"),
        ([["a"], None] * 5, {"problem_type": MULTI}, "5 images of the .* split have no label"),
    ],
)
def test_labels_that_do_not_suit_are_told(labels: list, options: dict, message: str):
    feature = List(Value("string")) if labels[0] == [] else None
    with pytest.raises(ValueError, match=message):
        load_image_dataset(dataset(labels, feature), **options)


def test_every_split_numbers_labels_alike_and_knows_no_other():
    train, test = dataset(NAMES), dataset([["c"], ["a"]])
    data = load_image_dataset({"train": train, "test": test}, validation_fraction=0.2)
    assert [row["label"] for row in data.splits["test"]] == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match=r"the test split has labels that train has not: \['d'\]"):
        load_image_dataset({"train": train, "test": dataset([["d"], ["a"]])})


def test_split_off_keeps_the_rarest_labels_in_train():
    labels = [["common"]] * 60 + [["common", "rare"]] * 2
    data = load_image_dataset(dataset(labels))
    assert sum(row["label"][1] for row in data.splits["train"]) >= 1
    assert len(data.splits["test"]) == 6


@pytest.mark.parametrize(("names", "expected"), [(["2", "10.5"], {2.0, 10.5}), (["cat", "dog"], None)])
def test_classes_are_regressed_by_names_that_are_numbers_never_by_their_order(names: list[str], expected: set | None):
    rows = dataset([0, 1] * 10, ClassLabel(names=names))
    if expected is None:
        with pytest.raises(ValueError, match=r"regression needs 1 number for each image, a label of .* is 'cat'"):
            load_image_dataset(rows, problem_type="regression")
        return
    data = load_image_dataset(rows, problem_type="regression")
    assert {value for row in data.splits["train"] for value in row["label"]} == expected


def table(folder: Path, labels: list[str], **columns: list) -> Path:
    """Pictures whose grey is their number, and a table of their labels."""
    for number in range(len(labels)):
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(folder / f"{number}.png")
    names = [f"{number}.png" for number in range(len(labels))]
    pandas.DataFrame({"file_name": names, "label": labels, **columns}).to_csv(folder / "metadata.csv", index=False)
    return folder


@pytest.mark.parametrize(
    "texts",
    [
        ["['cat' 'dog']", "['dog']"],
        ["['cat', 'dog']", "['dog']"],
        ['["cat", "dog"]', '["dog"]'],
        ["['cat'\n 'dog']", "['dog']"],
    ],
)
def test_lists_of_names_are_read_as_numpy_python_and_json_write_them(tmp_path: Path, texts: list[str]):
    data = load_image_dataset(str(table(tmp_path, texts * 10)))
    assert data.problem_type == MULTI
    assert data.label_names == ["cat", "dog"]
    assert by_number(data) == {number: [[1, 1], [0, 1]][number % 2] for number in range(20)}


@pytest.mark.parametrize(
    "texts", [["[0 1 1]", "[1 0 0]"], ["[0. 1. 1.]", "[1. 0. 0.]"], ["[false, true, true]", "[true, false, false]"]]
)
def test_multi_hot_lists_are_read_as_numpy_and_json_write_them(tmp_path: Path, texts: list[str]):
    data = load_image_dataset(str(table(tmp_path, texts * 10)))
    assert by_number(data) == {number: [[0, 1, 1], [1, 0, 0]][number % 2] for number in range(20)}


@pytest.mark.parametrize(
    ("texts", "problem", "match"),
    [
        (["[a, b]", "[b]"], None, "can't be read as a list"),
        (["['a', 'b']", "b"], None, "the label b can't be read as a list"),
        (["(0, 2)", "(4, 6)"], None, "--problem_type multi_label_classification to take them as lists"),
        (["{'a', 'b'}", "{'b'}"], None, "--problem_type multi_label_classification to take them as lists"),
        (["cat dog", "dog"], MULTI, "'cat dog' has no separator"),
    ],
)
def test_texts_that_may_be_lists_are_a_question(tmp_path: Path, texts: list[str], problem: str | None, match: str):
    with pytest.raises(ValueError, match=match):
        load_image_dataset(str(table(tmp_path, texts * 10)), problem_type=problem)


def test_texts_in_brackets_are_classes_where_that_is_asked(tmp_path: Path):
    data = load_image_dataset(
        str(table(tmp_path, ["(0, 2)", "(4, 6)"] * 10)), problem_type="single_label_classification"
    )
    assert data.label_names == ["(0, 2)", "(4, 6)"]
    lists = load_image_dataset(str(tmp_path), problem_type=MULTI)
    assert lists.label_names == ["0", "2", "4", "6"]


def test_numbers_of_declared_classes_are_no_flags():
    feature = List(ClassLabel(names=["a", "b", "c"]))
    data = load_image_dataset(dataset([[0, 1], [1, 0], [1, 1]] * 6, feature), problem_type=MULTI)
    assert data.label_names == ["a", "b", "c"]
    assert by_number(data) == {number: [[1, 1, 0], [1, 1, 0], [0, 1, 0]][number % 3] for number in range(18)}


@pytest.mark.parametrize("labels", [["1", "01", "2"], ["e\u0301", "\u00e9", "z"], [" a", "a ", "b"]])
def test_the_order_and_number_of_classes_is_always_the_same(labels: list[str]):
    data = load_image_dataset(dataset(labels * 6))
    expected = {"1": ["01", "1", "2"], "e\u0301": ["z", "\u00e9"], " a": ["a", "b"]}[labels[0]]
    assert data.label_names == expected


@pytest.mark.parametrize(
    ("column", "values", "split"),
    [
        ("split", ["train"] * 16 + ["val"] * 4, "validation"),
        ("Subset", ["Training"] * 16 + ["Testing"] * 4, "test"),
        ("is_valid", [False] * 16 + [True] * 4, "validation"),
        ("is_train", [1] * 16 + [0] * 4, "test"),
    ],
)
@pytest.mark.parametrize("kind", ["table", "parquet"])
def test_a_column_of_splits_is_kept_to(tmp_path: Path, column: str, values: list, split: str, kind: str):
    if kind == "table":
        source = table(tmp_path, ["a", "b"] * 10, **{column: values})
    else:
        source = tmp_path / "data.parquet"
        dataset(["a", "b"] * 10, **{column: values}).to_parquet(source)
    data = load_image_dataset(str(source))
    assert {decode_image(row["image"]).getpixel((0, 0))[0] for row in data.splits[split]} == {16, 17, 18, 19}


def test_a_column_of_splits_may_be_one_of_classes():
    feature = ClassLabel(names=["train", "test"])
    rows = dataset(["a", "b"] * 10).add_column("split", [0] * 14 + [1] * 6, feature=feature)
    assert len(load_image_dataset(rows).splits["test"]) == 6


def test_rows_of_one_folder_are_parted_by_their_column(tmp_path: Path):
    table(tmp_path, ["a", "b"] * 10, split=["train"] * 16 + ["val"] * 4)
    (tmp_path / "train").mkdir()
    for path in tmp_path.glob("*.png"):
        path.rename(tmp_path / "train" / path.name)
    (tmp_path / "metadata.csv").rename(tmp_path / "train" / "metadata.csv")
    assert len(load_image_dataset(str(tmp_path)).splits["validation"]) == 4


def test_a_row_that_contradicts_its_folder_is_refused(tmp_path: Path):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        table(tmp_path / folder, ["a", "b"] * 10, split=["train"] * 18 + ["test"] * 2)
    with pytest.raises(ValueError, match=r"test/0.png lies in the test split but its row says train"):
        load_image_dataset(str(tmp_path))


def test_a_column_of_sets_that_are_no_splits_means_nothing(tmp_path: Path):
    data = load_image_dataset(str(table(tmp_path, ["a", "b"] * 10, set=["toys", "cars"] * 10)))
    assert sum(map(len, data.splits.values())) == 20


def test_a_column_of_splits_with_other_values_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"the column split has the splits test, train and also 'extra'"):
        load_image_dataset(str(table(tmp_path, ["a", "b"] * 10, split=["train"] * 12 + ["test"] * 6 + ["extra"] * 2)))
    data = load_image_dataset(str(tmp_path), split_names=["train=train", "test=extra"])
    assert len(data.splits["test"]) == 2
    assert data.reading.ignored == {"outside the named splits": [f"{number}.png" for number in range(12, 18)]}


def test_columns_of_one_name_are_refused(tmp_path: Path):
    table(tmp_path, ["a", "b"] * 4)
    text = (tmp_path / "metadata.csv").read_text().replace("label\n", "label,label\n").replace(".png,a", ".png,a,b")
    (tmp_path / "metadata.csv").write_text(text)
    with pytest.raises(ValueError, match="has two columns label"):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("content", ["caf\u00e9".encode("latin-1"), "x".encode("utf-16-le"), b"\xff\xff"])
def test_bytes_in_another_encoding_are_refused(content: bytes):
    with pytest.raises(ValueError, match="a label is not encoded in UTF-8"):
        load_image_dataset(dataset([content, b"plain"] * 6))


def test_objects_in_a_table_get_names_with_dots(tmp_path: Path):
    table(tmp_path, ["x"] * 12)
    rows = [{"file_name": f"{number}.png", "label": {"name": "ab"[number % 2], "id": number}} for number in range(12)]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=r"label.name, label.id"):
        load_image_dataset(str(tmp_path), layout="metadata")
    data = load_image_dataset(str(tmp_path), label_column="label.name")
    assert data.label_names == ["a", "b"]


def test_streamed_images_without_a_label_are_refused_and_secret_test_labels_left_out():
    feature = ClassLabel(names=["a", "b"])
    train, test = dataset([0, 1] * 10, feature), dataset([-1] * 4, feature)
    data = load_image_dataset(DatasetDict(train=train, test=test), streaming=True)
    assert {row["label"] for row in data.splits["test"]} <= {0, 1}
    holed = load_image_dataset(dataset([0, 1] * 9 + [-1, None], feature), streaming=True)
    with pytest.raises(ValueError, match=r"an image of the .* split has no label"):
        [list(holed.splits[split]) for split in ("train", "validation", "test")]
    with pytest.raises(ValueError, match=r"in train but Value.*in test"):
        load_image_dataset(DatasetDict(train=train, test=dataset(["a", "b"] * 2)), streaming=True)
