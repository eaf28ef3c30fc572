"""Turns the label values of any source into class numbers, multi-hot lists or numbers to regress."""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datasets import ClassLabel, Dataset, Features, List, Value

from .columns import UNDECODED, class_names
from .tables import decode_text

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
UNLABELLED = -1  # the label of Hub data sets with secret test labels
MOST_NAMED = 5
SEPARATORS = "|;,"
LIST_PART = re.compile(r"'[^'\\]*'|\"[^\"\\]*\"|[-+]?[\d.]+(?:e[-+]?\d+)?|True|False")
NUMPY_LIST = re.compile(rf"\[\s*((?:{LIST_PART.pattern})(?:\s+(?:{LIST_PART.pattern}))+)\s*\]")


@dataclass(frozen=True)
class Numbered:
    """Splits whose labels are numbers.

    Args:
        splits: Rows with `image` and `label`, as `LabelledImages.splits`.
        names: Label names by number.
        problem_type: As in transformers' configs.
    """

    splits: dict[str, Dataset]
    names: list[str]
    problem_type: str


def number_labels(
    splits: dict[str, Dataset],
    source: str,
    problem_type: str | None,
    columns: list[str] | None = None,
) -> Numbered:
    """Numbers the labels alike in every split.

    Args:
        splits: Rows by split.
        source: Name of the data set, for errors.
        problem_type: As in transformers' configs; None finds it from the values: lists are several labels.
        columns: Names of the label columns, if there are several.

    Raises:
        ValueError: If the labels don't suit the problem, differ between splits, or can be understood in two ways.
    """
    feature = splits["train"].features["label"]
    values = {split: label_values(data) for split, data in splits.items()}
    parse = list_parser([value for value in values["train"] if value is not None], problem_type, source)
    values = {split: [parse(value) for value in found] for split, found in values.items()}
    found = [value for value in values["train"] if value is not None]
    problem_type = problem_type or find_problem_type(found, source)
    if problem_type == REGRESSION:
        if isinstance(feature, ClassLabel):  # a class's number says nothing, its name may be a value
            values = {split: [named(feature, value) for value in found] for split, found in values.items()}
        return number_targets(splits, values, source, columns)
    if problem_type == MULTI:
        return number_lists(splits, values, feature, source, columns)
    return number_classes(splits, values, feature, source)


def named(feature: ClassLabel, value: int | None) -> str | None:
    """A class's name; None for an image without a class."""
    return None if value in (None, UNLABELLED) else feature.names[value]


def label_values(data: Dataset) -> list:
    """A split's labels: texts stripped and composed (NFC), bytes decoded, whole decimals as whole numbers, lists
    without nulls, NaN as None."""
    return [plain(value) for value in data["label"][:]]


def plain(value: Any) -> Any:
    """One label value; as `label_values`."""
    if isinstance(value, bytes):
        return plain(decode_text(value, "a label"))
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value.strip()) or None
    if isinstance(value, list):
        return [plain(part) for part in value if part is not None]
    return value


def list_parser(values: list, problem_type: str | None, source: str) -> Callable[[Any], Any]:
    """How the texts of a table become lists: written lists everywhere, names with separators if so asked.

    Args:
        values: All training labels.
        problem_type: With `multi_label_classification`, texts are parted at the first of `|`, `;` and `,` that occurs.
        source: Name of the data set, for errors.

    Raises:
        ValueError: If texts may be lists or names.
    """
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values):
        return lambda value: value
    lists = [written_list(text) for text in texts]
    if all(found is not None for found in lists):
        if problem_type is None and (tuples := [text for text in texts if text[0] != "["]):
            raise ValueError(
                f"--dataset {source}: the labels are texts such as {tuples[0]}: give --problem_type {MULTI} to take "
                f"them as lists, or --problem_type {SINGLE} to take each as a class"
            )
        if problem_type == SINGLE and not all(len(found) == 1 for found in lists):
            return lambda value: value
        return lambda value: plain(written_list(value)) if isinstance(value, str) else value
    if problem_type != SINGLE and (doubtful := looks_like_a_list(texts, lists)):
        raise ValueError(
            f"--dataset {source}: the label {doubtful} can't be read as a list, though its brackets or other labels "
            f'suggest lists: write ["a", "b"] everywhere, or give --problem_type {SINGLE} to take each text as a class'
        )
    if problem_type != MULTI:
        return lambda value: value
    separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)
    if separator is None and (blank := next((text for text in texts if " " in text), None)):
        raise ValueError(
            f"--dataset {source}: the label {blank!r} has no separator: part labels by one of | ; , or write lists as "
            '["a", "b"]'
        )
    return lambda value: [part.strip() for part in (value or "").split(separator or "|") if part.strip()]


def looks_like_a_list(texts: list[str], lists: list[list | None]) -> str | None:
    """A text in brackets that is no list while others are, or while all stand in brackets; None if there is none."""
    bracketed = [text[0] == "[" and text[-1] == "]" for text in texts]
    if not all(bracketed) and not any(found is not None for found in lists):
        return None
    return next((text for text, found in zip(texts, lists, strict=True) if found is None), None)


def written_list(text: str) -> list | None:
    """The list that a text writes, as JSON, Python or NumPy do; None if it writes none."""
    if (text[:1], text[-1:]) not in (("[", "]"), ("(", ")"), ("{", "}")):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        # NumPy parts by blanks; Python would join the strings 'a' 'b' to one.
        parts = NUMPY_LIST.fullmatch(text)
        try:
            found = ast.literal_eval(f"[{','.join(LIST_PART.findall(parts[1]))}]" if parts else text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if not isinstance(found, list | tuple | set) or any(isinstance(part, list | tuple | set | dict) for part in found):
        return None
    return sorted(found, key=str) if isinstance(found, set) else list(found)


def find_problem_type(values: list, source: str) -> str:
    """Finds the problem from the labels: lists are several labels, else one.

    Raises:
        ValueError: If they are decimal numbers, which may be classes or values.
    """
    if values and all(isinstance(value, list) and len(value) == 1 for value in values):
        values = [value[0] for value in values]
    if any(isinstance(value, list) for value in values):
        lists = [as_list(value) for value in values]
        if not are_multi_hot(lists) and any(is_decimal(part) for value in lists for part in value):
            raise two_meanings(source, "lists of decimal numbers", MULTI)
        return MULTI
    if any(is_decimal(value) for value in values) and all(is_numeric(value) for value in values):
        raise two_meanings(source, "decimal numbers", SINGLE)
    return SINGLE


def two_meanings(source: str, what: str, classes: str) -> ValueError:
    """The error of labels that may be classes or values."""
    return ValueError(
        f"--dataset {source}: the labels are {what}: give --problem_type regression to learn them as values, or "
        f"--problem_type {classes} to take each as a class"
    )


def is_numeric(value: Any) -> bool:
    """Whether a label is a number or the text of one."""
    return number_of(value) is not None


def is_decimal(value: Any) -> bool:
    """Whether a label is a number that is not whole, or the text of one with a decimal point."""
    number = number_of(value)
    return number is not None and (not number.is_integer() or (isinstance(value, str) and "." in value))


def number_of(value: Any) -> float | None:
    """The finite number that a label is or writes; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number_classes(splits: dict[str, Dataset], values: dict[str, list], feature: Any, source: str) -> Numbered:
    """One class for each image; see `number_labels`.

    Declared classes keep their order; other labels are sorted, numerically if all are whole numbers.
    """
    declared = values["train"]
    if any(isinstance(value, list) for value in declared):
        if not all(isinstance(value, list) and len(value) == 1 for value in declared):
            raise ValueError(
                f"--dataset {source}: labels are lists, expected a number or a string for each image, or "
                f"--problem_type {MULTI}"
            )
        values = {split: [value[0] if value else None for value in found] for split, found in values.items()}
        feature = getattr(feature, "feature", feature)
    if isinstance(feature, ClassLabel):
        name_of = dict(enumerate(feature.names))
        values = {split: found for split, found in values.items() if split == "train" or set(found) != {UNLABELLED}}
    else:
        name_of = {value: str(value) for value in in_order(set(values["train"]) - {None})}
    check_classes(values, name_of, source)
    number = {value: index for index, value in enumerate(name_of)}
    labels = {split: [number[value] for value in found] for split, found in values.items()}
    return Numbered(with_labels(splits, labels, Value("int64")), list(name_of.values()), SINGLE)


def in_order(values: set) -> list:
    """Sorts labels, numerically if all are whole numbers; `1` and `01` are two."""
    if all(str(value).isdecimal() and str(value).isascii() for value in values):
        return sorted(values, key=lambda value: (int(value), str(value)))
    return sorted(values, key=str)


def with_labels(splits: dict[str, Dataset], labels: Mapping[str, list], kind: Any) -> dict[str, Dataset]:
    """Replaces the label column of each split."""
    features = Features({"image": UNDECODED, "label": kind})
    return {
        split: splits[split].remove_columns("label").add_column("label", found, feature=kind).cast(features)
        for split, found in labels.items()
    }


def number_lists(
    splits: dict[str, Dataset],
    values: dict[str, list],
    feature: Any,
    source: str,
    columns: list[str] | None,
) -> Numbered:
    """Any number of labels for each image, as multi-hot lists; see `number_labels`."""
    refuse_missing(values, source)
    lists = {split: [as_list(value) for value in found] for split, found in values.items()}
    declared_names = class_names(feature)
    if columns or are_multi_hot(lists["train"], declared_names):
        names = columns or declared_names or [str(number) for number in range(len(lists["train"][0]))]
        labels = {split: [multi_hot(value, names, source) for value in found] for split, found in lists.items()}
    else:
        found = in_order({part for value in lists["train"] for part in value})
        name_of = dict(enumerate(declared_names)) if declared_names else {value: str(value) for value in found}
        check_names(lists, set(name_of), source)
        names = list(name_of.values())
        number = {value: index for index, value in enumerate(name_of)}
        labels = {
            split: [one_list({number[part] for part in value}, len(names)) for value in found]
            for split, found in lists.items()
        }
    if not any(map(any, labels["train"])):
        raise ValueError(f"--dataset {source}: no training image has a label")
    return Numbered(with_labels(splits, labels, List(Value("float32"))), names, MULTI)


def as_list(value: Any) -> list:
    """A label value as a list."""
    return value if isinstance(value, list) else [value]


def are_multi_hot(lists: list[list], names: list[str] | None = None) -> bool:
    """Whether lists say for every class whether it is there: all are as long, and hold zeros and ones alone.

    Args:
        lists: The labels.
        names: The declared classes; lists of another length then hold their numbers.
    """
    lengths = {len(value) for value in lists}
    if names is not None and lengths != {len(names)}:
        return False
    return len(lengths) == 1 and min(lengths) > 1 and all(is_flag(part) for value in lists for part in value)


def is_flag(value: Any) -> bool:
    """Whether a value is 0, 1, true or false."""
    return value in (0, 1) or str(value).lower() in ("0", "1", "0.0", "1.0", "true", "false")


def multi_hot(value: list, names: list[str], source: str) -> list[float]:
    """A list of flags as numbers.

    Raises:
        ValueError: If there are more or fewer than names, or one is no flag.
    """
    if len(value) != len(names) or not all(is_flag(part) for part in value):
        raise ValueError(f"--dataset {source}: expected {len(names)} labels of 0 or 1 for each image, got {value}")
    return [float(str(part).lower() in ("1", "1.0", "true")) for part in value]


def one_list(present: set[int], number: int) -> list[float]:
    """A multi-hot list."""
    return [float(index in present) for index in range(number)]


def number_targets(
    splits: dict[str, Dataset], values: dict[str, list], source: str, columns: list[str] | None
) -> Numbered:
    """Numbers to regress; see `number_labels`."""
    refuse_missing(values, source)
    targets = {
        split: [[number_of(part) for part in as_list(value)] for value in found] for split, found in values.items()
    }
    length = len(targets["train"][0]) if targets["train"] else 1
    for split, found in targets.items():
        for written, numbers in zip(values[split], found, strict=True):
            if len(numbers) != length or None in numbers:
                raise ValueError(
                    f"--dataset {source}: regression needs {length} number{'s' * (length > 1)} for each image, a "
                    f"label of the {split} split is {written!r}"
                )
    names = columns or (["value"] if length == 1 else [f"value_{number}" for number in range(length)])
    return Numbered(with_labels(splits, targets, List(Value("float32"))), names, REGRESSION)


def refuse_missing(values: dict[str, list], source: str) -> None:
    """Refuses images without a label.

    Raises:
        ValueError: With their number.
    """
    for split, found in values.items():
        if missing := sum(value is None for value in found):
            raise ValueError(f"--dataset {source}: {missing} images of the {split} split have no label: remove them")
        if not found:
            raise no_image(source, split)


def no_image(source: str, split: str) -> ValueError:
    """The error of a split without an image."""
    return ValueError(f"--dataset {source}: the {split} split has no image: remove it")


def check_classes(labels: dict[str, list], name_of: dict, source: str) -> None:
    """Checks that every image is labelled, and that train has 2 or more labels and every other split's.

    Args:
        labels: Labels of the images by split.
        name_of: Names by label.
        source: Name of the data set, for errors.
    """
    for split, values in labels.items():
        if not values and split != "train":
            raise no_image(source, split)
        bare = [row for row, value in enumerate(values) if value in (None, UNLABELLED) and value not in name_of]
        if bare:
            raise ValueError(f"--dataset {source}: {len(bare)} images of the {split} split have no label: remove them")
    present = set(labels["train"])
    used = [name for value, name in name_of.items() if value in present]
    if len(used) < 2:
        raise ValueError(f"--dataset {source} has {len(used)} class ({', '.join(used)}), at least 2 are needed")
    check_names({split: [[value] for value in values] for split, values in labels.items()}, present, source, name_of)


def check_names(lists: dict[str, list[list]], known: set, source: str, name_of: Mapping | None = None) -> None:
    """Checks that no split has a label that train has not.

    Raises:
        ValueError: Naming the split and the labels.
    """
    name_of = name_of or {}
    for split, values in lists.items():
        if unknown := sorted(
            str(name_of.get(part, part)) for part in {part for value in values for part in value} - known
        ):
            raise ValueError(
                f"--dataset {source}: the {split} split has labels that train has not: {unknown[:MOST_NAMED]}"
            )
