"""Labels: one, several or numbers to regress, from any source, the same in every split."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_vit_suite.data import load_image_dataset

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
    from hf_vit_suite.data import decode_image

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
