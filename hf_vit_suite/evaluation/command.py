"""`hf-vit-suite evaluate`: what is measured, on which images, and where the figures go."""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..argument_types import DEFAULT_TEMPLATE, positive

if TYPE_CHECKING:  # imported where it is used, so that --help is quick
    from datasets import Dataset
    from matplotlib.figure import Figure
    from torch import Tensor

    from ..data import LabelledImages
    from .features import Features

    Figures = dict[str, Callable[[], Figure]]

POOLING_HELP = "default: what the model pools itself, else its class token; cls; or mean of the patches"
LABEL_FRACTION_HELP = "share of each class's training images that are used; 0.01 is the usual test with few labels"
TEMPLATES_HELP = (
    "prompts in which {} is the label's name, whose features are averaged, or imagenet for the CLIP paper's 80 "
    f"(default {DEFAULT_TEMPLATE!r})"
)
LABELS_HELP = "names of the labels in the order of their numbers, with commas between; default the data's own"
SEED_HELP = "draws missing splits (default 42, finetune's: its test images stay unseen) and random weights"


def build_parser() -> argparse.ArgumentParser:
    """The parser of every way to evaluate."""
    parser = argparse.ArgumentParser(
        prog="hf-vit-suite evaluate", description="Measures features, a classifier or a CLIP."
    )
    ways = parser.add_subparsers(title="ways", required=True, metavar="WAY")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        way = ways.add_parser(name, help=text, description=run.__doc__)
        way.set_defaults(run=run, output_dir=Path(f"outputs/evaluate-{name}"))
        way.add_argument("model", help="folder or Hub name of an image model, the suite's or transformers'")
        way.add_argument("--image_column", help="column of the images; default found by type")
        way.add_argument("--strict_images", action="store_true", help="stop at unreadable images, don't skip them")
        way.add_argument("--batch_size", type=positive, default=64, help="images at a time (default 64)")
        way.add_argument("--bf16", action="store_true", help="compute in bfloat16")
        way.add_argument("--output_dir", type=Path, help=f"where results go (default outputs/evaluate-{name})")
        return way

    def add_labelled(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        way = add(name, run, text)
        way.add_argument("--dataset", default="digits", help="images with labels, as for finetune (default digits)")
        way.add_argument("--label_column", help="column of the labels; default found by type")
        way.add_argument("--validation_fraction", type=float, default=0.1, help="share split off where there is none")
        way.add_argument("--test_fraction", type=float, default=0.1, help="share split off where there is none")
        way.add_argument("--seed", type=int, default=42, help=SEED_HELP)
        return way

    def add_whole(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        way = add_labelled(name, run, text)
        way.add_argument(
            "--split", choices=("test", "validation", "train", "all"), default="test", help="default test"
        )
        return way

    for name, run, text in (
        ("knn", run_knn, "weighted nearest neighbours of frozen features"),
        ("linear", run_linear, "a linear classifier on frozen features"),
    ):
        way = add_labelled(name, run, text)
        way.add_argument("--pooling", choices=("default", "cls", "mean"), default="default", help=POOLING_HELP)
        way.add_argument("--random_weights", action="store_true", help="measure the architecture untrained")
        way.add_argument("--label_fraction", type=float, default=1.0, help=LABEL_FRACTION_HELP)
    add_whole("classification", run_classification, "a classifier's accuracy, calibration and errors")
    way = add_whole("zero-shot", run_zero_shot, "labels that a model of images and texts finds by their names")
    way.add_argument("--labels", help=LABELS_HELP)
    way.add_argument("--templates", nargs="+", default=[DEFAULT_TEMPLATE], help=TEMPLATES_HELP)
    way = add_whole("faithfulness", run_faithfulness, "whether explanations name the patches that decide")
    way.add_argument("--images", type=positive, default=200, help="images of the split that are used (default 200)")
    way.add_argument("--steps", type=positive, default=16, help="parts in which the patches go (default 16)")
    way = add("retrieval", run_retrieval, "captions found by images, and images by captions")
    way.add_argument("--dataset", required=True, help="images with captions, as for pretrain clip")
    way.add_argument("--text_column", help="column of the captions; default found by its name")
    way.add_argument("--split", choices=("test", "validation", "train"), default="test", help="default test")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Evaluates.

    Raises:
        ValueError: If the model, the data or the labels don't suit.
        SystemExit: With code 2 for wrong arguments, as argparse does.
    """
    parsed = build_parser().parse_args(arguments)
    parsed.run(parsed)


def load_data(arguments: argparse.Namespace) -> "LabelledImages":
    """The labelled images."""
    from ..data import load_image_dataset

    return load_image_dataset(
        arguments.dataset,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        validation_fraction=arguments.validation_fraction,
        test_fraction=arguments.test_fraction,
        seed=arguments.seed,
        strict_images=arguments.strict_images,
    )


def extract_splits(
    arguments: argparse.Namespace, data: "LabelledImages", splits: Sequence[str]
) -> tuple[dict[str, "Features"], float]:
    """Features by split, and the seconds that they took.

    With few labels (Chen et al. 2020, arXiv 2002.05709, table 7) the training images are a share of each class.
    """
    from ..data import split_off
    from .features import extract_features, open_encoder

    if not 0 < arguments.label_fraction <= 1:
        raise ValueError(f"--label_fraction must be above 0 and at most 1, got {arguments.label_fraction}")
    if arguments.label_fraction < 1:
        whole = set(data.splits["train"]["label"][:])
        _, data.splits["train"] = split_off(data.splits["train"], arguments.label_fraction, arguments.seed)
        if lost := whole - set(data.splits["train"]["label"][:]):
            raise ValueError(
                f"--label_fraction {arguments.label_fraction} leaves {len(lost)} of {len(whole)} labels without a "
                "training image: give a larger one"
            )
    encoder = open_encoder(arguments.model, arguments.pooling, arguments.random_weights, arguments.seed)
    started = time.perf_counter()
    features = {
        split: extract_features(encoder, data.splits[split], arguments.batch_size, arguments.bf16, split)
        for split in splits
    }
    return features, time.perf_counter() - started


def run_knn(arguments: argparse.Namespace) -> None:
    """Classifies test images by the weighted votes of their nearest training images, as in DINO."""
    from .figures import knn_figure
    from .knn import knn_report

    data = load_data(arguments)
    features, seconds = extract_splits(arguments, data, ("train", "test"))
    report = knn_report(features["train"], features["test"], len(data.label_names))
    save(
        arguments, data, {"metrics": report, "seconds_of_features": seconds}, {"knn.png": partial(knn_figure, report)}
    )
    best = max(report, key=lambda k: report[k]["accuracy"])
    print(f"k-NN accuracy {report[best]['accuracy']:.4f} (k = {best}) on {len(features['test'].labels)} images")


def run_linear(arguments: argparse.Namespace) -> None:
    """Trains linear classifiers on frozen features for a sweep of learning rates; the validation images choose."""
    from .figures import sweep_figure
    from .linear import linear_probe

    data = load_data(arguments)
    features, seconds = extract_splits(arguments, data, ("train", "validation", "test"))
    report = linear_probe(**features, num_labels=len(data.label_names), seed=arguments.seed)
    save(
        arguments,
        data,
        {"metrics": report, "seconds_of_features": seconds},
        {"linear.png": partial(sweep_figure, report)},
    )
    print(f"linear probe accuracy {report['accuracy']:.4f} on {len(features['test'].labels)} images")


def run_classification(arguments: argparse.Namespace) -> None:
    """Measures a classifier: accuracy, each class, calibration, confusion matrix."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ..opening import open_pretrained
    from ..scores import require_one_label
    from .classification import classification_report, model_labels
    from .features import best_device, run_over_images

    model = open_pretrained(AutoModelForImageClassification, arguments.model).eval().to(best_device())
    require_one_label(model.config, arguments.model, "evaluate classification")
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    data = load_data(arguments)
    split = chosen_split(arguments, data)
    labels = model_labels(model.config, data.label_names, split["label"][:])
    started = time.perf_counter()
    logits, _ = run_over_images(
        lambda pixel_values: model(pixel_values).logits,
        model.device,
        processor,
        split,
        arguments.batch_size,
        arguments.bf16,
        arguments.split,
    )
    seconds = time.perf_counter() - started
    report = classification_report(logits, labels, model.config.id2label)
    names = [model.config.id2label[number] for number in range(logits.shape[1])]
    figures = label_figures(labels, logits, names, report)
    save(arguments, data, {"metrics": report, "split": arguments.split, "seconds_of_logits": seconds}, figures)
    accuracy, error = report["accuracy"], report["calibration_error"]
    print(f"accuracy {accuracy:.4f}, calibration error {error:.4f} on {len(labels)} images")


def chosen_split(arguments: argparse.Namespace, data: "LabelledImages") -> "Dataset":
    """The images of `--split`."""
    from datasets import concatenate_datasets

    if arguments.split == "all":
        return concatenate_datasets(list(data.splits.values()))
    return data.splits[arguments.split]


def label_figures(labels: "Tensor", logits: "Tensor", names: list[str], report: dict) -> "Figures":
    """What draws figures of predictions `[images, labels]`, by file name."""
    from ..training.figures import confusion_figure
    from .figures import reliability_figure

    return {
        "confusion_matrix.png": partial(confusion_figure, labels.numpy(), logits.argmax(dim=-1).numpy(), names),
        "reliability.png": partial(reliability_figure, report),
    }


def run_zero_shot(arguments: argparse.Namespace) -> None:
    """Classifies images by comparing them with the labels' names in prompts, as in CLIP."""
    from .classification import classification_report
    from .features import run_over_images
    from .two_towers import open_two_towers
    from .zero_shot import class_features, distinct_names, label_names, prompt_templates

    templates = prompt_templates(arguments.templates)
    towers = open_two_towers(arguments.model)
    data = load_data(arguments)
    names = label_names(arguments.labels, data.label_names)
    classes = class_features(towers, names, templates, arguments.batch_size, arguments.bf16)
    features, labels = run_over_images(
        towers.encode_images,
        towers.model.device,
        towers.image_processor,
        chosen_split(arguments, data),
        arguments.batch_size,
        arguments.bf16,
        arguments.split,
    )
    logits = towers.scale * features @ classes.T
    report = classification_report(logits, labels, distinct_names(names))
    how = {"split": arguments.split, "templates": templates, "labels": names}
    save(arguments, data, {"metrics": report, **how}, label_figures(labels, logits, names, report))
    top5 = f" (top-5 {report['top5_accuracy']:.4f})" if "top5_accuracy" in report else ""
    print(f"zero-shot accuracy {report['accuracy']:.4f}{top5} on {len(labels)} images")


def run_faithfulness(arguments: argparse.Namespace) -> None:
    """Takes patches away, and gives them back, in the order of each explanation's values and in random order."""
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ..opening import open_pretrained
    from ..scores import predicts_values
    from .faithfulness import METHODS, RANDOM, faithfulness_report, method_curves
    from .features import best_device, run_over_images
    from .figures import faithfulness_figure

    model = open_pretrained(AutoModelForImageClassification, arguments.model).eval().to(best_device())
    if predicts_values(model.config):
        raise ValueError(
            f"{arguments.model} predicts values, problem_type regression: faithfulness needs probabilities"
        )
    processor = open_pretrained(AutoImageProcessor, arguments.model)
    data = load_data(arguments)
    split = chosen_split(arguments, data).shuffle(seed=arguments.seed)
    split = split.select(range(min(arguments.images, len(split))))
    methods, generator = (*METHODS, RANDOM), torch.Generator().manual_seed(arguments.seed)

    def curves(pixel_values: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False):  # gradients need tensors of their own
            return method_curves(model, pixel_values.clone(), methods, generator, arguments.steps).flatten(1)

    values, _ = run_over_images(
        curves, model.device, processor, split, arguments.batch_size, arguments.bf16, arguments.split
    )
    report = faithfulness_report(values.view(len(values), len(methods), 2, arguments.steps + 1), methods)
    save(
        arguments,
        data,
        {"metrics": report, "split": arguments.split},
        {"curves.png": partial(faithfulness_figure, report)},
    )
    for method, metrics in report.items():
        print(f"{method}: deletion {metrics['deletion']:.4f}, insertion {metrics['insertion']:.4f}")
    print(f"area under the curve on {len(values)} images; deletion is better low, insertion high")


def run_retrieval(arguments: argparse.Namespace) -> None:
    """Finds each image's captions among all captions, and each caption's image among all images."""
    import torch

    from ..data import load_captioned_images
    from .features import run_over_images
    from .retrieval import RANKS, retrieval_report
    from .two_towers import open_two_towers

    towers = open_two_towers(arguments.model)
    data = load_captioned_images(
        arguments.dataset,
        split=arguments.split,
        image_column=arguments.image_column,
        text_column=arguments.text_column,
        strict_images=arguments.strict_images,
    )
    captions = data.rows["text"][:]
    words = [text for of_image in captions for text in of_image]
    number_of = {text: number for number, text in enumerate(dict.fromkeys(words))}
    texts = towers.encode_texts(words, arguments.batch_size, arguments.bf16)
    owners = torch.repeat_interleave(torch.tensor([len(of_image) for of_image in captions]))
    images, _ = run_over_images(
        towers.encode_images,
        towers.model.device,
        towers.image_processor,
        data.rows.remove_columns("text").add_column("label", range(len(captions))),
        arguments.batch_size,
        arguments.bf16,
        arguments.split,
    )
    wordings = torch.tensor([number_of[text] for text in words])
    report = retrieval_report(images, texts, owners, wordings)
    counts = {
        "images": len(images),
        "captions": len(texts),
        "distinct_captions": len(number_of),
        "skipped_images": data.skipped,
    }
    write(arguments, {"metrics": report, "split": arguments.split, **counts}, {})
    for name, metrics in report.items():
        recalls = ", ".join(f"R@{most} {metrics[f'recall@{most}']:.4f}" for most in RANKS)
        print(f"{name.replace('_', ' ')}: {recalls} on {len(images)} images and {len(texts)} captions")


def save(arguments: argparse.Namespace, data: "LabelledImages", report: dict, figures: "Figures") -> None:
    """Writes what was measured on labelled images."""
    images = {split: len(rows) for split, rows in data.splits.items()}
    write(arguments, {**report, "images": images, "skipped_images": data.skipped}, figures)


def write(arguments: argparse.Namespace, report: dict, figures: "Figures") -> None:
    """Writes metrics.json, and then those figures that can be drawn."""
    from ..drawing import write_figures
    from ..files import staged_file

    how = {
        name: getattr(arguments, name)
        for name in ("model", "dataset", "pooling", "random_weights", "label_fraction")
        if hasattr(arguments, name)
    }
    with staged_file(arguments.output_dir / "metrics.json") as path:
        path.write_text(json.dumps({**report, **how}, indent=2) + "\n")
    write_figures(arguments.output_dir, figures)
