"""Predictions of image files with a saved model."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

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
from .evaluation.features import best_device
from .evaluation.two_towers import open_two_towers
from .evaluation.zero_shot import class_features, prompt_templates
from .opening import is_classifier, open_pretrained
from .scores import label_scores, predicts_values

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
        each of the others. A regression has no probability: that is None, and `"value"` is added.

    Raises:
        ValueError: If the model can't be opened, or has labels of its own and is given others, or needs some.
    """
    classifier = own_labels(model_name) if labels is None else zero_shot_classifier(model_name, labels, template)
    images, unreadable = {}, []
    for path in paths:
        try:
            images[str(path)] = decode_image(path)
        except ImageDecodingError as error:
            unreadable.append(str(error))
    predictions, files = [], list(images)
    for start in range(0, len(files), BATCH_SIZE):
        batch = files[start : start + BATCH_SIZE]
        pixel_values = classifier.processor([images[file] for file in batch], return_tensors="pt").pixel_values
        with torch.inference_mode():
            scores = classifier.scores(pixel_values.to(classifier.device)).cpu()
        best = scores.topk(min(top_k, scores.shape[-1]))
        for file, values, numbers in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            shown = [
                {"label": classifier.names[number], "probability": None, classifier.kind_of_score: value}
                for number, value in zip(numbers, values, strict=True)
            ]
            predictions.append({"image": file, "labels": shown})
    return predictions, unreadable


class Classifier(NamedTuple):
    """What gives labels to images.

    Args:
        scores: From `[images, channels, height, width]`, on the device, to `[images, labels]`.
        device: Where it computes.
        processor: Of its images.
        names: Labels by number.
        kind_of_score: `"probability"` or `"value"`.
    """

    scores: Callable[[Tensor], Tensor]
    device: torch.device
    processor: Callable
    names: Mapping[int, str]
    kind_of_score: str = "probability"


def own_labels(model_name: str) -> Classifier:
    """A classifier, on an accelerator where there is one."""
    config = open_pretrained(AutoConfig, model_name)
    if type(config) in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING and not is_classifier(config):
        raise ValueError(f'{model_name} has no labels of its own: say what to tell apart, --labels "a cat,a dog"')
    if not config.num_labels:
        raise ValueError(f"{model_name} is an encoder without labels: fine-tune it first, hf-vit-suite finetune")
    model = open_pretrained(AutoModelForImageClassification, model_name).eval().to(best_device())
    return Classifier(
        lambda pixel_values: label_scores(model(pixel_values).logits, model.config),
        model.device,
        open_pretrained(AutoImageProcessor, model_name),
        model.config.id2label,
        "value" if predicts_values(model.config) else "probability",
    )


def zero_shot_classifier(model_name: str, labels: Sequence[str], template: str) -> Classifier:
    """A model of images and texts as a classifier with these labels."""
    if len(labels) < 2:
        raise ValueError(f"--labels needs at least 2 labels to choose from, got {', '.join(labels)}")
    if is_classifier(open_pretrained(AutoConfig, model_name)):
        raise ValueError(f"{model_name} is a classifier with labels of its own: leave --labels out")
    towers = open_two_towers(model_name)
    classes = class_features(towers, labels, prompt_templates([template]))

    def scores(pixel_values: Tensor) -> Tensor:
        logits = towers.scale * towers.encode_images(pixel_values).cpu() @ classes.T
        # Models of the sigmoid loss have a bias, and give each label a probability by itself. transformers' pipeline
        # decides by the model type's name, so it applies a softmax to the suite's CLIP.
        bias = getattr(towers.model, "logit_bias", None)
        if bias is not None:
            return (logits + bias.cpu()).sigmoid()
        return logits.softmax(dim=-1)

    return Classifier(scores, towers.model.device, towers.image_processor, dict(enumerate(labels)))
