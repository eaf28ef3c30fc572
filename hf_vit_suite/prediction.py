"""Predictions and explanations of image files with a saved classifier."""

import os
from collections.abc import Sequence

import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from .data import ImageDecodingError, decode_image
from .explain import classifier_attention_figure
from .files import staged_file
from .opening import open_pretrained

BATCH_SIZE = 16


@torch.no_grad()
def predict(model_name: str, paths: Sequence[str | os.PathLike], top_k: int = 5) -> tuple[list[dict], list[str]]:
    """Classifies image files.

    Args:
        model_name: Folder or Hub name of a classifier.
        paths: Image files.
        top_k: Labels an image, at most as many as there are.

    Returns:
        For each readable image `{"image": path, "labels": [{"label", "probability"}, ...]}`, and what is wrong with
        each of the others.
    """
    model = open_pretrained(AutoModelForImageClassification, model_name).eval()
    processor = open_pretrained(AutoImageProcessor, model_name)
    images, unreadable = {}, []
    for path in paths:
        try:
            images[str(path)] = decode_image(path)
        except ImageDecodingError as error:
            unreadable.append(str(error))
    predictions, names = [], list(images)
    for start in range(0, len(names), BATCH_SIZE):
        batch = names[start : start + BATCH_SIZE]
        pixel_values = processor([images[name] for name in batch], return_tensors="pt").pixel_values
        probabilities = model(pixel_values).logits.softmax(dim=-1)
        best = probabilities.topk(min(top_k, probabilities.shape[-1]))
        for name, values, numbers in zip(batch, best.values.tolist(), best.indices.tolist(), strict=True):
            labels = [
                {"label": model.config.id2label[number], "probability": value}
                for number, value in zip(numbers, values, strict=True)
            ]
            predictions.append({"image": name, "labels": labels})
    return predictions, unreadable


def explain(model_name: str, path: str | os.PathLike, out: str | os.PathLike) -> None:
    """Writes a figure of the last layer's attention on an image: the mean over heads, and each head.

    Args:
        model_name: Folder or Hub name of a model of the suite.
        path: Image file.
        out: Picture to write; its suffix is the format (png, svg, pdf).
    """
    model = open_pretrained(AutoModelForImageClassification, model_name).eval()
    processor = open_pretrained(AutoImageProcessor, model_name)
    pixel_values = processor([decode_image(path)], return_tensors="pt").pixel_values
    figure = classifier_attention_figure(model, pixel_values, processor)
    with staged_file(out) as staged:
        figure.savefig(staged, dpi=150)
