"""Predictions of image files with a saved model."""

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
)

from .argument_types import DEFAULT_TEMPLATE
from .data import ImageDecodingError, decode_image
from .evaluation.two_towers import open_two_towers
from .evaluation.zero_shot import class_features, prompt_templates
from .opening import is_classifier, open_pretrained

BATCH_SIZE = 16


def predict(
    model_name: str,
    paths: Sequence[str | os.PathLike],
    top_k: int = 5,
    labels: Sequence[str] | None = None,
    template: str = DEFAULT_TEMPLATE,
) -> tuple[list[dict], list[str]]:
    """Classifies image files.

    Args:
        model_name: Folder or Hub name of a classifier, or with `labels` of a model of images and texts.
        paths: Image files.
        top_k: Labels an image, at most as many as there are.
        labels: What to tell the images by, for a model without labels of its own.
        template: Text in which `{}` is such a label.

    Returns:
        For each readable image `{"image": path, "labels": [{"label", "probability"}, ...]}`, and what is wrong with
        each of the others.

    Raises:
        ValueError: If the model can't be opened, or has labels of its own and is given others, or needs some.
    """
    classify, processor, names = (
        own_labels(model_name) if labels is None else zero_shot_classifier(model_name, labels, template)
    )
    images, unreadable = {}, []
    for path in paths:
        try:
            images[str(path)] = decode_image(path)
        except ImageDecodingError as error:
            unreadable.append(str(error))
    predictions, files = [], list(images)
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        pixel_values = processor([images[file] for file in batch], return_tensors="pt").pixel_values
        with torch.inference_mode():
            probabilities = classify(pixel_values).softmax(dim=-1)
        best = probabilities.topk(min(top_k, probabilities.shape[-1]))
        for file, values, numbers in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            shown = [
                {"label": names[number], "probability": value} for number, value in zip(numbers, values, strict=True)
            ]
            predictions.append({"image": file, "labels": shown})
    return predictions, unreadable


# From `[images, channels, height, width]` to logits `[images, labels]`, the processor, and the labels by number.
Classifier = tuple[Callable[[Tensor], Tensor], Callable, Mapping[int, str]]


def own_labels(model_name: str) -> Classifier:
    """A classifier."""
    config = open_pretrained(AutoConfig, model_name)
    if type(config) in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING and not is_classifier(config):
        raise ValueError(f'{model_name} has no labels of its own: say what to tell apart, --labels "a cat,a dog"')
    if not config.num_labels:
        raise ValueError(f"{model_name} is an encoder without labels: fine-tune it first, hf-vit-suite finetune")
    model = open_pretrained(AutoModelForImageClassification, model_name).eval()
    processor = open_pretrained(AutoImageProcessor, model_name)
    return lambda pixel_values: model(pixel_values).logits, processor, model.config.id2label


def zero_shot_classifier(model_name: str, labels: Sequence[str], template: str) -> Classifier:
    """A model of images and texts that tells these labels apart."""
    if len(labels) < 2:
        raise ValueError(f"--labels needs at least 2 labels to choose from, got {', '.join(labels)}")
    if is_classifier(open_pretrained(AutoConfig, model_name)):
        raise ValueError(f"{model_name} is a classifier with labels of its own: leave --labels out")
    towers = open_two_towers(model_name)
    classes = class_features(towers, labels, prompt_templates([template]))
    device = towers.model.device
    return (
        lambda pixel_values: towers.scale * towers.encode_images(pixel_values.to(device)).cpu() @ classes.T,
        towers.image_processor,
        dict(enumerate(labels)),
    )
