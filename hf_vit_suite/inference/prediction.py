"""Predictions of images with a saved model: `hf_vit_suite.predict`."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PretrainedConfig,
)

from ..data import ImageDecodingError, decode_image
from ..output import Result
from . import DEFAULT_TEMPLATE
from .opening import best_device, checkpoint_name, is_classifier, open_pretrained
from .scores import has_independent_labels, label_scores, predicts_values
from .two_towers import open_two_towers
from .zero_shot import class_features, prompt_templates, split_names

BATCH_SIZE = 16
DEFAULT_THRESHOLD = 0.5


def predict(
    model: str | os.PathLike | Result,
    images: str | os.PathLike | Image.Image | Sequence[str | os.PathLike | Image.Image],
    *,
    top_k: int = 5,
    labels: str | Sequence[str] | None = None,
    template: str = DEFAULT_TEMPLATE,
) -> list[dict]:
    """Classifies images.

    Args:
        model: Folder or Hub name of a classifier, or with `labels` of a CLIP; or the result of `finetune`.
        images: Image files or PIL images, or a single one.
        top_k: Labels per image, at most as many as there are.
        labels: Zero-shot labels for a CLIP: a list, or names with commas between.
        template: Text in which `{}` is such a label.

    Returns:
        For each image `{"image": path or position, "labels": [{"label", "probability"}, ...]}`, the highest score
        first, or `{"image", "error": reason}` where it can't be read. A regression has no probability: that is None,
        and `"value"` is added. With several labels an image `"predicted"` says whether the probability reaches the
        label's threshold, which fine-tuning chose (`label_thresholds` of the config), else 0.5.

    Raises:
        ValueError: If the model can't be opened, has labels of its own and is given others, or needs some, or if
            `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if isinstance(images, str | os.PathLike | Image.Image):
        images = [images]
    name = checkpoint_name(model)
    names = split_names(labels) if isinstance(labels, str) else labels
    classifier = own_labels(name) if names is None else zero_shot_classifier(name, names, template)
    predictions: list[dict] = []
    readable: dict[int, Image.Image] = {}
    for number, image in enumerate(images):
        predictions.append({"image": str(image) if isinstance(image, str | os.PathLike) else number})
        try:
            readable[number] = decode_image(image)
        except ImageDecodingError as error:
            predictions[number]["error"] = str(error)
    numbers = list(readable)
    for start in range(0, len(numbers), BATCH_SIZE):
        batch = numbers[start : start + BATCH_SIZE]
        found = best_labels(classifier, [readable[number] for number in batch], top_k)
        for number, best in zip(batch, found, strict=True):
            predictions[number]["labels"] = best
    return predictions


class Classifier(NamedTuple):
    """A model that scores labels.

    Args:
        scores: From `[images, channels, height, width]` on the device to `[images, labels]`.
        device: Device of the model.
        processor: Image processor.
        names: Labels by number.
        kind_of_score: `"probability"` or `"value"`.
        thresholds: With several labels an image, the probability from which on each label is predicted.
    """

    scores: Callable[[Tensor], Tensor]
    device: torch.device
    processor: Callable
    names: Mapping[int, str]
    kind_of_score: str = "probability"
    thresholds: Sequence[float] | None = None


@torch.inference_mode()
def best_labels(classifier: Classifier, images: Sequence[Image.Image], top_k: int) -> list[list[dict]]:
    """The labels with the highest scores for each image of a batch."""
    pixel_values = classifier.processor(images, return_tensors="pt").pixel_values
    scores = classifier.scores(pixel_values.to(classifier.device)).cpu()
    best = scores.topk(min(top_k, scores.shape[-1]))
    return [
        [label_entry(classifier, number, value) for number, value in zip(numbers, values, strict=True)]
        for numbers, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def label_entry(classifier: Classifier, number: int, value: float) -> dict:
    """A label with its score, and whether it is predicted if any number of labels may be."""
    entry = {"label": classifier.names[number], "probability": None, classifier.kind_of_score: value}
    if classifier.thresholds is not None:
        entry["predicted"] = value >= classifier.thresholds[number]
    return entry


def own_labels(model_name: str) -> Classifier:
    """A classifier, on an accelerator if there is one."""
    config = open_pretrained(AutoConfig, model_name)
    if type(config) in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING and not is_classifier(config):
        raise ValueError(f'{model_name} has no labels of its own: name zero-shot labels, --labels "a cat,a dog"')
    if not config.num_labels:
        raise ValueError(f"{model_name} is an encoder without labels: fine-tune it first, hf-vit-suite finetune")
    model = open_pretrained(AutoModelForImageClassification, model_name).eval().to(best_device())
    return Classifier(
        lambda pixel_values: label_scores(model(pixel_values).logits, model.config),
        model.device,
        open_pretrained(AutoImageProcessor, model_name),
        model.config.id2label,
        "value" if predicts_values(model.config) else "probability",
        label_thresholds(model.config),
    )


def label_thresholds(config: PretrainedConfig) -> Sequence[float] | None:
    """The probability from which on each of several labels is predicted; None where one label is chosen."""
    if predicts_values(config) or not has_independent_labels(config):
        return None
    return getattr(config, "label_thresholds", None) or [DEFAULT_THRESHOLD] * config.num_labels


def zero_shot_classifier(model_name: str, labels: Sequence[str], template: str) -> Classifier:
    """A CLIP as a classifier with these labels."""
    if len(labels) < 2:
        raise ValueError(f"--labels needs at least 2 labels to choose from, got {', '.join(labels)}")
    if is_classifier(open_pretrained(AutoConfig, model_name)):
        raise ValueError(f"{model_name} is a classifier with labels of its own: leave --labels out")
    towers = open_two_towers(model_name)
    classes = class_features(towers, labels, prompt_templates([template]))

    def scores(pixel_values: Tensor) -> Tensor:
        logits = towers.scale * towers.encode_images(pixel_values).cpu() @ classes.T
        # The sigmoid loss trains a bias and independent probabilities. transformers' pipeline decides by the model
        # type's name and applies a softmax to the suite's CLIP.
        bias = getattr(towers.model, "logit_bias", None)
        if bias is not None:
            return (logits + bias.cpu()).sigmoid()
        return logits.softmax(dim=-1)

    return Classifier(scores, towers.model.device, towers.image_processor, dict(enumerate(labels)))
