"""`hf_vit_suite.evaluate`: measures features, classifiers, CLIPs and explanations."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, concatenate_datasets
from matplotlib.figure import Figure
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from ..data import (
    LabelledImages,
    dataset_name,
    load_captioned_images,
    load_image_dataset,
    split_off,
    warn_of_unreadable,
)
from ..data.labels import SINGLE
from ..inference.opening import best_device, checkpoint_name, open_pretrained
from ..inference.scores import predicts_values, problem_of
from ..inference.two_towers import open_two_towers
from ..inference.zero_shot import class_features, distinct_names, label_names, prompt_templates
from ..options import choose, from_options
from ..output import Result, staged_file, write_figures
from .arguments import (
    EvaluationArguments,
    FaithfulnessArguments,
    FeatureArguments,
    LabelledArguments,
    RetrievalArguments,
    SplitArguments,
    ZeroShotArguments,
)
from .classification import classification_report, model_labels
from .faithfulness import METHODS as EXPLANATIONS
from .faithfulness import RANDOM, faithfulness_report, method_curves
from .features import FeatureExtractor, Features, extract_features, open_extractor, run_over_images
from .knn import knn_report
from .linear import linear_probe
from .multi_label import multi_label_report
from .plots import (
    confusion_figure,
    faithfulness_figure,
    knn_figure,
    prediction_figures,
    reliability_figure,
    sweep_figure,
)
from .regression import regression_report
from .retrieval import RANKS, retrieval_report

# Options that metrics.json repeats.
RECORDED = ("pooling", "random_weights", "label_fraction")


class Measured(NamedTuple):
    """What an evaluation measured.

    Args:
        model: The measured model.
        processor: Its image processor.
        report: What metrics.json holds of it; `metrics` among it.
        figures: Draws each figure, by file name.
        summary: The metrics in words.
    """

    model: PreTrainedModel
    processor: Callable
    report: dict
    figures: Mapping[str, Callable[[], Figure]]
    summary: str


def evaluate(method: str, model: str | os.PathLike | Result, **options: Any) -> Result:
    """Measures a model on a data set and writes metrics.json and figures.

    Args:
        method: `"knn"`, `"linear"`, `"classification"`, `"zero-shot"`, `"retrieval"` or `"faithfulness"`.
        model: Folder or Hub name, or the result of `finetune` or `pretrain`.
        **options: Flags of `hf-vit-suite evaluate METHOD` by name, such as `dataset`: a name as for the command, a
            `datasets.Dataset` or `DatasetDict`, or a torch `Dataset` of (image, label).

    Raises:
        ValueError: If an option is unknown, or model, data and labels don't fit together.
    """
    kind, measure = EVALUATIONS[choose(method, list(EVALUATIONS), "evaluation")]
    (arguments,) = from_options((kind,), options, f"evaluate {method}")
    name = checkpoint_name(model)
    measured = measure(name, arguments)
    how = {"model": name, "dataset": dataset_name(arguments.dataset)}
    how |= {option: getattr(arguments, option) for option in RECORDED if hasattr(arguments, option)}
    report = {**measured.report, **how}
    output_dir = Path(arguments.output_dir or f"outputs/evaluate-{method}")
    with staged_file(output_dir / "metrics.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    write_figures(output_dir, measured.figures)
    return Result(measured.model, measured.processor, report["metrics"], output_dir, name, report, measured.summary)


def load_data(arguments: LabelledArguments, problem_type: str | None = SINGLE) -> LabelledImages:
    """The labelled images that the arguments name.

    Args:
        arguments: Data options.
        problem_type: The problem that their labels must have; None takes any.

    Raises:
        ValueError: If the labels have another, or as `load_image_dataset`.
    """
    data = load_image_dataset(
        arguments.dataset,
        label_column=arguments.label_column,
        validation_fraction=arguments.validation_fraction,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
        problem_type=None if problem_type == SINGLE else problem_type,
        **arguments.source_options(),
    )
    if problem_type == SINGLE != data.problem_type:
        raise ValueError(f"--dataset {data.source} has a {data.problem_type}, and this needs one label an image")
    return data


def chosen_split(arguments: SplitArguments, data: LabelledImages) -> Dataset:
    """The images of `split`."""
    if arguments.split == "all":
        return concatenate_datasets(list(data.splits.values()))
    return data.splits[arguments.split]


def over_split(
    compute: Callable[[Tensor], Tensor],
    model: PreTrainedModel,
    processor: Callable,
    rows: Dataset,
    arguments: SplitArguments | RetrievalArguments,
) -> tuple[Tensor, Tensor, list[str]]:
    """`run_over_images` on the images of `split`, as the arguments say."""
    shared = (arguments.batch_size, arguments.bf16, arguments.split, arguments.strict_images)
    return run_over_images(compute, model.device, processor, rows, *shared)


def counts(data: LabelledImages, unreadable: Sequence[str]) -> dict:
    """Numbers of images by split, what was read of the source, and the images that were left out, with a warning."""
    warn_of_unreadable(unreadable)
    images = {split: len(rows) for split, rows in data.splits.items()}
    return {"images": images, "data": data.reading.report(), "skipped_images": [*data.skipped, *unreadable]}


def keep_fraction(data: LabelledImages, fraction: float, seed: int) -> None:
    """Keeps a fraction of each class's training images (Chen et al. 2020, arXiv 2002.05709, table 7).

    Raises:
        ValueError: If the fraction is out of range, or leaves a class without a training image.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"--label_fraction must be above 0 and at most 1, got {fraction}")
    if fraction == 1:
        return
    before = set(data.splits["train"]["label"][:])
    _, data.splits["train"] = split_off(data.splits["train"], fraction, seed)
    if lost := before - set(data.splits["train"]["label"][:]):
        raise ValueError(
            f"--label_fraction {fraction} leaves {len(lost)} of {len(before)} labels without a training image: give a "
            "larger one"
        )


class FrozenFeatures(NamedTuple):
    """A model's features of a data set.

    Args:
        data: The images.
        extractor: The feature extractor.
        by_split: Features by split.
        counts: What was read and left out.
        seconds: Time of the forward passes.
    """

    data: LabelledImages
    extractor: FeatureExtractor
    by_split: dict[str, Features]
    counts: dict
    seconds: float


def frozen_features(name: str, arguments: FeatureArguments, splits: Sequence[str]) -> FrozenFeatures:
    """Extracts the features of these splits."""
    data = load_data(arguments)
    keep_fraction(data, arguments.label_fraction, arguments.seed)
    extractor = open_extractor(name, arguments.pooling, arguments.random_weights, arguments.seed)
    started = time.perf_counter()
    by_split = {
        split: extract_features(
            extractor, data.splits[split], arguments.batch_size, arguments.bf16, split, data.strict_images
        )
        for split in splits
    }
    seconds = time.perf_counter() - started
    unreadable = [line for features in by_split.values() for line in features.unreadable]
    return FrozenFeatures(data, extractor, by_split, counts(data, unreadable), seconds)


def measure_knn(name: str, arguments: FeatureArguments) -> Measured:
    """Classifies test images by the weighted votes of their nearest training images, as in DINO."""
    data, extractor, features, counted, seconds = frozen_features(name, arguments, ("train", "test"))
    report = knn_report(features["train"], features["test"], len(data.label_names))
    best = max(report, key=lambda k: report[k]["accuracy"])
    images = len(features["test"].labels)
    return Measured(
        extractor.model,
        extractor.processor,
        {"metrics": report, "seconds_of_features": seconds, **counted},
        {"knn.png": partial(knn_figure, report)},
        f"k-NN accuracy {report[best]['accuracy']:.4f} (k = {best}) on {images} images",
    )


def measure_linear(name: str, arguments: FeatureArguments) -> Measured:
    """Trains linear classifiers on frozen features for a sweep of learning rates; the validation images choose."""
    splits = ("train", "validation", "test")
    data, extractor, features, counted, seconds = frozen_features(name, arguments, splits)
    report = linear_probe(**features, num_labels=len(data.label_names), seed=arguments.seed)
    return Measured(
        extractor.model,
        extractor.processor,
        {"metrics": report, "seconds_of_features": seconds, **counted},
        {"linear.png": partial(sweep_figure, report)},
        f"linear probe accuracy {report['accuracy']:.4f} on {len(features['test'].labels)} images",
    )


def label_figures(labels: Tensor, logits: Tensor, names: list[str], report: dict) -> dict[str, Callable[[], Figure]]:
    """Draws figures of predictions `[images, labels]`, by file name."""
    return {
        "confusion_matrix.png": partial(confusion_figure, labels.numpy(), logits.argmax(dim=-1).numpy(), names),
        "reliability.png": partial(reliability_figure, report),
    }


def measure_classification(name: str, arguments: SplitArguments) -> Measured:
    """Measures a classifier by its `problem_type`: one label an image, several, or values."""
    model = open_pretrained(AutoModelForImageClassification, name).eval().to(best_device())
    processor = open_pretrained(AutoImageProcessor, name)
    problem_type = problem_of(model.config)
    data = load_data(arguments, problem_type)
    split = chosen_split(arguments, data)
    model_labels(model.config, data.label_names, split["label"][:])  # refuses unknown labels before images are read
    started = time.perf_counter()
    logits, labels, unreadable = over_split(
        lambda pixel_values: model(pixel_values).logits, model, processor, split, arguments
    )
    seconds = time.perf_counter() - started
    labels = model_labels(model.config, data.label_names, labels.tolist())
    names = [model.config.id2label[number] for number in range(logits.shape[1])]
    found = {"problem_type": problem_type, "split": arguments.split, "seconds_of_logits": seconds}
    found |= counts(data, unreadable)
    if problem_type == SINGLE:
        report = classification_report(logits, labels, model.config.id2label)
        figures = label_figures(labels, logits, names, report)
        summary = f"accuracy {report['accuracy']:.4f}, calibration error {report['calibration_error']:.4f}"
    else:
        report = problem_report(model.config, logits, labels)
        figures = prediction_figures(problem_type, labels.numpy(), logits.numpy(), names)
        summary = ", ".join(f"{name} {value:.4f}" for name, value in report.items() if isinstance(value, float))
    return Measured(model, processor, {"metrics": report, **found}, figures, f"{summary} on {len(labels)} images")


def problem_report(config: PretrainedConfig, logits: Tensor, labels: Tensor) -> dict:
    """Metrics of several labels, at the thresholds that fine-tuning chose, or of values; `[images, labels]` each."""
    if predicts_values(config):
        return regression_report(logits.numpy(), labels.numpy(), config.id2label)
    return multi_label_report(logits, labels, config.id2label, getattr(config, "label_thresholds", None))


def measure_zero_shot(name: str, arguments: ZeroShotArguments) -> Measured:
    """Classifies images by comparing them with the labels' names in prompts, as in CLIP."""
    templates = prompt_templates(arguments.templates)
    towers = open_two_towers(name)
    data = load_data(arguments)
    names = label_names(arguments.labels, data.label_names)
    classes = class_features(towers, names, templates, arguments.batch_size, arguments.bf16)
    features, labels, unreadable = over_split(
        towers.encode_images, towers.model, towers.image_processor, chosen_split(arguments, data), arguments
    )
    logits = towers.scale * features @ classes.T
    report = classification_report(logits, labels, distinct_names(names))
    top5 = f" (top-5 {report['top5_accuracy']:.4f})" if "top5_accuracy" in report else ""
    return Measured(
        towers.model,
        towers.image_processor,
        {"metrics": report, "split": arguments.split, "templates": templates, "labels": names}
        | counts(data, unreadable),
        label_figures(labels, logits, names, report),
        f"zero-shot accuracy {report['accuracy']:.4f}{top5} on {len(labels)} images",
    )


def measure_faithfulness(name: str, arguments: FaithfulnessArguments) -> Measured:
    """Removes patches, and inserts them, in the order of each explanation's values and in random order."""
    model = open_pretrained(AutoModelForImageClassification, name).eval().to(best_device())
    if predicts_values(model.config):
        raise ValueError(f"{name} predicts values, problem_type regression: faithfulness needs probabilities")
    processor = open_pretrained(AutoImageProcessor, name)
    data = load_data(arguments, None)
    split = chosen_split(arguments, data).shuffle(seed=arguments.seed)
    split = split.select(range(min(arguments.images, len(split))))
    methods, generator = (*EXPLANATIONS, RANDOM), torch.Generator().manual_seed(arguments.seed)

    def curves(pixel_values: Tensor) -> Tensor:
        with torch.inference_mode(False):  # gradients need tensors of their own
            return method_curves(model, pixel_values.clone(), methods, generator, arguments.steps).flatten(1)

    values, _, unreadable = over_split(curves, model, processor, split, arguments)
    report = faithfulness_report(values.view(len(values), len(methods), 2, arguments.steps + 1), methods)
    lines = [
        f"{method}: deletion {metrics['deletion']:.4f}, insertion {metrics['insertion']:.4f}"
        for method, metrics in report.items()
    ]
    lines.append(f"area under the curve on {len(values)} images; deletion: lower is better, insertion: higher")
    return Measured(
        model,
        processor,
        {"metrics": report, "split": arguments.split, **counts(data, unreadable)},
        {"curves.png": partial(faithfulness_figure, report)},
        "\n".join(lines),
    )


def measure_retrieval(name: str, arguments: RetrievalArguments) -> Measured:
    """Retrieves each image's captions among all captions, and each caption's image among all images."""
    towers = open_two_towers(name)
    data = load_captioned_images(
        arguments.dataset,
        split=arguments.split,
        text_column=arguments.text_column,
        **arguments.source_options(),
    )
    rows = data.rows.remove_columns("text").add_column("label", range(len(data.rows)))
    images, numbers, unreadable = over_split(
        towers.encode_images, towers.model, towers.image_processor, rows, arguments
    )
    warn_of_unreadable(unreadable)
    captions = data.rows.select(numbers.tolist())["text"][:]
    words = [text for of_image in captions for text in of_image]
    number_of = {text: number for number, text in enumerate(dict.fromkeys(words))}
    texts = towers.encode_texts(words, arguments.batch_size, arguments.bf16)
    owners = torch.repeat_interleave(torch.tensor([len(of_image) for of_image in captions]))
    report = retrieval_report(images, texts, owners, torch.tensor([number_of[text] for text in words]))
    lines = []
    for way, metrics in report.items():
        recalls = ", ".join(f"R@{rank} {metrics[f'recall@{rank}']:.4f}" for rank in RANKS)
        lines.append(f"{way.replace('_', ' ')}: {recalls} on {len(images)} images and {len(texts)} captions")
    found = {
        "images": len(images),
        "captions": len(texts),
        "distinct_captions": len(number_of),
        "data": data.reading.report(),
        "skipped_images": data.skipped + unreadable,
    }
    report = {"metrics": report, "split": arguments.split, **found}
    return Measured(towers.model, towers.image_processor, report, {}, "\n".join(lines))


EVALUATIONS: dict[str, tuple[type[EvaluationArguments], Callable[[str, Any], Measured]]] = {
    "knn": (FeatureArguments, measure_knn),
    "linear": (FeatureArguments, measure_linear),
    "classification": (SplitArguments, measure_classification),
    "zero-shot": (ZeroShotArguments, measure_zero_shot),
    "retrieval": (RetrievalArguments, measure_retrieval),
    "faithfulness": (FaithfulnessArguments, measure_faithfulness),
}
