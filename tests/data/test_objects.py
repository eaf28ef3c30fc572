"""Data sets given as Python objects."""

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from PIL import Image

from hf_vit_suite.data import dataset_name, decode_image, load_captioned_images, load_image_dataset
from hf_vit_suite.data import load_unlabelled_images as load_unlabelled


def images(number: int) -> list[Image.Image]:
    """Random images."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (6, 8, 3), np.uint8)) for _ in range(number)]


class Pairs(torch.utils.data.Dataset):
    """A torch data set as torchvision's are."""

    def __init__(self, items: list[tuple], classes: list[str] | None = None):
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple:
        return self.items[number]


def pixels_by_label(rows: Dataset) -> set[tuple[int, bytes]]:
    """Each row's label and decoded pixels."""
    return {(row["label"], decode_image(row["image"]).tobytes()) for row in rows}


FORMS = {
    "PIL": lambda image: image,
    "array": np.asarray,
    "tensor": lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1),
}


@pytest.mark.parametrize("form", FORMS)
def test_torch_data_set_keeps_its_pixels_labels_and_names(form: str):
    pictures = images(12)
    data = Pairs([(FORMS[form](image), number % 2) for number, image in enumerate(pictures)], ["cat", "dog"])
    loaded = load_image_dataset(data)
    assert loaded.label_names == ["cat", "dog"]
    found = set().union(*(pixels_by_label(rows) for rows in loaded.splits.values()))
    assert found == {(number % 2, image.tobytes()) for number, image in enumerate(pictures)}
    assert dataset_name(data) == "Pairs of 12 rows"


def test_data_set_is_read_anew_each_time(tmp_path: Path):
    class Files(Pairs):
        def __getitem__(self, number: int) -> tuple:
            return Image.open(self.items[number][0]).convert("RGB"), self.items[number][1]

    paths = [tmp_path / f"{number}.png" for number in range(6)]
    data = Files([(str(path), number % 2) for number, path in enumerate(paths)])
    for colour in (10, 200):
        for path in paths:
            Image.new("RGB", (4, 4), (colour, 0, 0)).save(path)
        rows = load_image_dataset(data).splits["train"]
        assert decode_image(rows[0]["image"]).getpixel((0, 0)) == (colour, 0, 0)


def test_data_sets_splits_and_streams_are_taken_as_they_are():
    features = datasets.Features({"image": datasets.Image(), "label": ClassLabel(names=["cat", "dog"])})
    columns = {"image": images(12), "label": [0, 1] * 6}
    whole = Dataset.from_dict(columns, features=features)
    expected = set().union(*(pixels_by_label(rows) for rows in load_image_dataset(whole).splits.values()))
    assert len(expected) == 12
    transformed = whole.with_transform(lambda rows: {"image": [None] * len(rows["image"])})
    assert len(load_unlabelled(transformed).rows) == 12
    splits = DatasetDict({"train": whole, "test": whole.select(range(4))})
    assert {name: len(rows) for name, rows in load_image_dataset(splits, validation_fraction=0.2).splits.items()} == {
        "train": 10, "validation": 2, "test": 4,
    }  # fmt: skip
    assert dataset_name(splits) == "DatasetDict (train: Dataset of 12 rows, test: Dataset of 4 rows)"
    stream = whole.to_iterable_dataset()
    with pytest.raises(ValueError, match="the train split is an IterableDataset: give streaming=True, or a Dataset"):
        load_unlabelled(stream)
    assert len(list(load_unlabelled(stream, streaming=True).rows)) == 12
    assert len(list(load_unlabelled(whole, streaming=True).rows)) == 12
    captioned = Dataset.from_dict(columns | {"text": [["a cat"], ["a dog"]] * 6})
    captioned = captioned.cast_column("image", datasets.Image())
    assert load_captioned_images(captioned).rows["text"][:2] == [["a cat"], ["a dog"]]


def test_splits_that_number_their_classes_differently_are_refused():
    train = Pairs([(image, number % 3) for number, image in enumerate(images(12))], ["cat", "dog", "owl"])
    test = Pairs([(image, number % 2) for number, image in enumerate(images(4))], ["dog", "owl"])
    with pytest.raises(ValueError, match=r"train and test have different classes in label: .* cat, dog, owl"):
        load_image_dataset({"train": train, "test": test})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Pairs([(torch.rand(3, 4, 4), 0)] * 4), "image 0 of the data set is a torch.float32: give PIL images or"),
        (
            Pairs([(Image.new("RGB", (4, 4)), 0, 1)] * 4),
            r"item 0 .* must be an image or \(image, label\), got 3 parts",
        ),
        (Pairs([Image.new("RGB", (4, 4))] * 4), "no column that looks like the label"),
        (3, "dataset must be a name, a datasets.Dataset, a DatasetDict or a torch Dataset .*, got a int"),
    ],
)
def test_other_objects_are_refused(source, message: str):
    with pytest.raises(ValueError, match=message):
        load_image_dataset(source)


def test_torch_data_set_of_images_alone_trains_without_labels():
    pictures = images(6)
    assert len(load_unlabelled(Pairs(pictures)).rows) == 6
    assert len(load_unlabelled(Pairs([(image, 1) for image in pictures])).rows) == 6


@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [
        ([torch.tensor([1, 0, 1]), torch.tensor([0, 1, 0])], "multi_label_classification"),
        ([np.array([1.0, 0.0]), np.array([1.0, 1.0])], "multi_label_classification"),
        ([["cat", "dog"], ["dog", "owl"]], None),
        ([torch.tensor(0), torch.tensor(1)], "single_label_classification"),
        ([np.int64(3), np.int64(5)], "single_label_classification"),
        ([0.5, 1.25], "regression"),
    ],
)
def test_torch_labels_are_one_several_or_values(labels: list, problem_type: str | None):
    data = Pairs([(image, labels[number % 2]) for number, image in enumerate(images(12))])
    if problem_type is None:  # texts are captions
        assert load_captioned_images(data).rows["text"][:2] == [["cat", "dog"], ["dog", "owl"]]
        return
    given = {"problem_type": problem_type} if problem_type == "regression" else {}
    loaded = load_image_dataset(data, **given)
    assert loaded.problem_type == problem_type
    found = [row["label"] for rows in loaded.splits.values() for row in rows]
    if problem_type != "single_label_classification":
        assert {tuple(label) for label in found} == {tuple(np.asarray(label, float).reshape(-1)) for label in labels}
    else:
        assert loaded.label_names == [str(int(label)) for label in labels]


@pytest.mark.parametrize("name", ["label", "labels", "text"])
def test_items_may_be_mappings(name: str):
    values = ["a red square", "a blue one"] if name == "text" else [0, 1]
    data = Pairs([{"image": image, name: values[number % 2]} for number, image in enumerate(images(12))])
    if name == "text":
        assert load_captioned_images(data).rows["text"][:2] == [["a red square"], ["a blue one"]]
    else:
        assert load_image_dataset(data).label_names == ["0", "1"]


@pytest.mark.parametrize("first", [1, 1.0, np.int64(1), torch.tensor(1)])
def test_values_keep_their_decimals_whatever_the_first_is(first):
    values = [first, 1.5, 2.7, np.float32(0.25), torch.tensor(3.5), 2] * 3
    data = load_image_dataset(Pairs(list(zip(images(18), values, strict=True))), problem_type="regression")
    found = sorted(row["label"][0] for split in data.splits.values() for row in split)
    assert found == pytest.approx(sorted([1, 1.5, 2.7, 0.25, 3.5, 2] * 3))


@pytest.mark.parametrize("labels", [[[0, 2], [1, 2], [0, 1]], [[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]])
def test_lists_of_a_data_set_with_classes_have_their_names(labels: list):
    data = load_image_dataset(Pairs(list(zip(images(18), labels * 6, strict=True)), ["cat", "dog", "owl"]))
    assert data.label_names == ["cat", "dog", "owl"]
    found = {tuple(row["label"]) for split in data.splits.values() for row in split}
    assert found == {(1, 0, 1), (0, 1, 1), (1, 1, 0)}


@pytest.mark.parametrize(
    ("labels", "classes", "match"),
    [
        ([0, 1.5] * 6, ["a", "b"], "item 1 of the data set has the label 1.5, but the data set has classes"),
        ([0, "b"] * 6, None, "item 1 of the data set has a text where the first has a number"),
        ([0, [1]] * 6, None, "item 1 of the data set has a list of numbers where the first has a number"),
        ([0, 2**60] * 6, None, "is too large: number the classes from 0"),
        ([0, None] * 6, None, "item 1 of the data set has no label where the first has a number"),
    ],
)
def test_items_with_other_labels_than_the_first_are_refused(labels: list, classes: list | None, match: str):
    with pytest.raises(ValueError, match=match):
        load_image_dataset(Pairs(list(zip(images(12), labels, strict=True)), classes))


@pytest.mark.parametrize("value", [{"raw": "a"}, [{"raw": "a"}]])
def test_captions_of_other_types_are_one_line(value):
    rows = Dataset.from_dict({"image": images(2), "text": [value] * 2})
    with pytest.raises(ValueError, match=r"expected texts as captions|no column"):
        load_captioned_images(rows)


def test_captions_that_are_numbers_are_their_text():
    rows = Dataset.from_dict({"image": images(2), "text": [7, 12]})
    assert load_captioned_images(rows).rows["text"][:] == [["7"], ["12"]]
