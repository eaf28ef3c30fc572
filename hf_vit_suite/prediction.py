"""Predictions and explanations of image files with a saved model."""

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from transformers import (
    MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    PretrainedConfig,
)

from .argument_types import DEFAULT_TEMPLATE
from .data import ImageDecodingError, decode_image
from .evaluation.two_towers import open_two_towers
from .evaluation.zero_shot import class_features, prompt_templates
from .explain import (
    attention_figure,
    class_token_attention,
    classifier_attention_figure,
    match_figure,
    reconstruction_figure,
)
from .files import staged_file
from .models.configuration_mae import SuiteMAEConfig
from .opening import is_pretrained_encoder, open_pretrained

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


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a classifier was saved: CLIP's and SigLIP's have the config of the model without a head."""
    return any("ForImageClassification" in name for name in config.architectures or ())


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


def explain(
    model_name: str,
    path: str | os.PathLike,
    out: str | os.PathLike,
    method: str = "attention",
    texts: Sequence[str] | None = None,
) -> None:
    """Writes a figure that explains a model on an image.

    Args:
        model_name: Folder or Hub name of a model of the suite.
        path: Image file.
        out: Picture to write; its suffix is the format (png, svg, pdf).
        method: `"attention"`, the last layer's, the mean over heads and each head; `"reconstruction"`, the image,
            its masked form and what a masked autoencoder makes of that.
        texts: For a model of images and texts, in place of a method: what the match with each of them rests on.

    Raises:
        ValueError: If the model can't be explained so, or the image can't be read.
    """
    processor = open_pretrained(AutoImageProcessor, model_name)
    pixel_values = processor([decode_image(path)], return_tensors="pt").pixel_values
    if texts:
        figure = explain_match(model_name, pixel_values, processor, texts)
    else:
        figure = FIGURES[method](model_name, pixel_values, processor)
    with staged_file(out) as staged:
        figure.savefig(staged, dpi=150)


def explain_attention(model_name: str, pixel_values: Tensor, processor) -> Figure:
    """The last layer's attention of a classifier or an encoder, `pixel_values` `[1, channels, height, width]`."""
    config = open_pretrained(AutoConfig, model_name)
    if is_pretrained_encoder(config) or not config.num_labels:
        model = open_pretrained(AutoModel, model_name).eval()
        model = getattr(model, "vision_model", model)  # of two towers the one of images
        return attention_figure(pixel_values, class_token_attention(model, pixel_values), processor, ["image"])
    model = open_pretrained(AutoModelForImageClassification, model_name).eval()
    return classifier_attention_figure(model, pixel_values, processor)


def explain_reconstruction(model_name: str, pixel_values: Tensor, processor) -> Figure:
    """A masked autoencoder's reconstruction, with the same mask for each picture of a size."""
    config = open_pretrained(AutoConfig, model_name)
    if not isinstance(config, SuiteMAEConfig):
        raise ValueError(f"{model_name} reconstructs nothing: it is no masked autoencoder but a {config.model_type}")
    model = open_pretrained(AutoModelForPreTraining, model_name).eval()
    rows, columns = model.vit.embeddings.patch_embeddings.grid(pixel_values)
    noise = torch.rand(1, rows * columns, generator=torch.Generator().manual_seed(0))
    return reconstruction_figure(model, pixel_values, noise, processor)


def explain_match(model_name: str, pixel_values: Tensor, processor, texts: Sequence[str]) -> Figure:
    """The patches that the match with each text rests on, for any CLIP of the suite or of transformers."""
    towers = open_two_towers(model_name)
    # The weights of attention are what is explained; transformers' own models have them under this backend alone.
    towers.model.set_attn_implementation("eager")
    input_ids = towers.tokenize(texts).input_ids
    return match_figure(towers.model, pixel_values.to(towers.model.device), input_ids, texts, processor)


FIGURES = {"attention": explain_attention, "reconstruction": explain_reconstruction}
