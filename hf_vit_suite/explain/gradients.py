"""Relevance of patches for a class or text: attention weighted by the gradient of its score."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .encoders import ImageEncoder, as_picture, check_heads, check_targets, forward_options, image_encoder
from .observation import Observer, observed

Target = int | Sequence[int] | Tensor | None


def relevance(
    model: PreTrainedModel,
    pixel_values: Tensor,
    target: Target = None,
    input_ids: Tensor | None = None,
    layer: int = 0,
    resize: bool = True,
) -> Tensor:
    """How much each patch adds to a class, or to the match with a text (Chefer et al. 2021, arXiv 2103.15679).

    Attention times its gradient, its positive part averaged over the heads (eq. 5), is gathered into what the class
    token takes from each patch (eq. 6). Only that token's row is wanted of the product of all layers, so it is
    multiplied from the left, in the order in which a backward pass meets the layers: one layer's maps exist at a time.

    Args:
        model: A classifier, or a CLIP, with an encoder that `image_encoder` knows; in evaluation mode, under any
            attention backend. No weight needs a gradient.
        pixel_values: `[batch, channels, height, width]`, normalised.
        target: A class for all images or one for each; default what the model predicts.
        input_ids: For CLIP in place of a class: the text of each image, `[batch, tokens]`.
        layer: First layer that is gathered, negative ones from the end; default 0, all of them.
        resize: Whether the maps have the images' resolution, else that of the patch grid.

    Returns:
        `[batch, height, width]`, or `[batch, rows, columns]`, not negative. Where the model pools patches or has a
        distillation token, the mean over the tokens that it reads.

    Raises:
        ValueError: If the model has neither classes nor texts, there is no such class, or the model is not known.
    """
    encoder = image_encoder(model)
    layers, row = range(encoder.resolve_layer(layer), encoder.depth), None

    def observe(weights: Tensor, gradient: Tensor) -> None:
        nonlocal row
        if row is None:
            row = encoder.readout(weights.float()).expand(len(weights), 1, -1)
        # The last layer may compute outputs only for the tokens that pooling reads.
        row = row + row[..., : weights.shape[2]] @ positive_part(weights, gradient).mean(dim=1)

    watch_backward(model, encoder, observe, layers, pixel_values, target, input_ids)
    return as_picture(encoder.on_grid(row.squeeze(1), pixel_values), pixel_values, resize)


def attention_gradient(
    model: PreTrainedModel,
    pixel_values: Tensor,
    target: Target = None,
    input_ids: Tensor | None = None,
    layer: int | None = None,
    head: int | None = None,
    resize: bool = True,
) -> Tensor:
    """Attention of the tokens that are read, times its gradient's positive part (Barkan et al. 2021, Grad-SAM).

    Source: arXiv 2204.11073, eq. 2 and 3: the mean over layers and heads.

    Args:
        model: As in `relevance`, likewise `pixel_values`, `target` and `input_ids`.
        pixel_values: `[batch, channels, height, width]`.
        target: Class; default what the model predicts.
        input_ids: For CLIP in place of a class, `[batch, tokens]`.
        layer: Default the mean over layers.
        head: Default the mean over heads.
        resize: Whether the maps have the images' resolution, else that of the patch grid.

    Returns:
        `[batch, height, width]`, or `[batch, rows, columns]`, not negative.

    Raises:
        ValueError: As `relevance`, or if layer or head don't exist.
    """
    encoder = image_encoder(model)
    check_heads(encoder.module.config.num_attention_heads, head)
    layers = range(encoder.depth) if layer is None else [encoder.resolve_layer(layer)]
    total = 0

    def observe(weights: Tensor, gradient: Tensor) -> None:
        nonlocal total
        product = positive_part(weights, gradient)
        product = product.mean(dim=1) if head is None else product[:, head]
        total = total + encoder.readout(product)[: product.shape[1]] @ product

    watch_backward(model, encoder, observe, layers, pixel_values, target, input_ids)
    return as_picture(encoder.on_grid(total / len(layers), pixel_values), pixel_values, resize)


def positive_part(weights: Tensor, gradient: Tensor) -> Tensor:
    """(A x dA)+ in float32; weights are not negative, so it is also A x dA+."""
    return (weights.float() * gradient.float()).clamp(min=0)


def watch_backward(
    model: PreTrainedModel,
    encoder: ImageEncoder,
    observe: Observer,
    layers: Collection[int],
    pixel_values: Tensor,
    target: Target,
    input_ids: Tensor | None,
) -> None:
    """Sends the gradient of each image's score back through its encoder."""
    encoder.grid(pixel_values)
    with torch.enable_grad(), observed(model, observe, layers, with_gradients=True) as watched:
        # With a gradient for the images a graph exists even if every weight is frozen.
        pixel_values = pixel_values.detach().requires_grad_()
        if input_ids is None:
            scores = class_scores(watched, pixel_values, target)
        else:
            scores = text_scores(watched, pixel_values, input_ids)
        torch.autograd.grad(scores.sum(), pixel_values)


def class_scores(model: PreTrainedModel, pixel_values: Tensor, target: Target) -> Tensor:
    """The logit of each image's class, `[batch]`."""
    if not has_classes(model):
        raise ValueError(
            f"a {type(model).__name__} has no classes to explain: fine-tune it first, or give a text to a CLIP"
        )
    logits = classify(model, pixel_values)
    if target is None:
        chosen = logits.argmax(dim=-1)
    else:
        targets = [target] * len(logits) if isinstance(target, int) else target
        check_targets(targets, pixel_values)
        chosen = torch.as_tensor(targets, device=logits.device)
    if chosen.min() < 0 or chosen.max() >= logits.shape[1]:
        raise ValueError(f"target must be from 0 to {logits.shape[1] - 1}, got {chosen.tolist()}")
    return logits.gather(1, chosen.unsqueeze(1)).squeeze(1)


def has_classes(model: PreTrainedModel) -> bool:
    """Whether a model classifies images."""
    return type(model).__name__.endswith("ForImageClassification") and model.config.num_labels > 0


def classify(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Logits of images of any size, `[batch, labels]`."""
    return model(pixel_values=pixel_values, **forward_options(model.config)).logits


def text_scores(model: PreTrainedModel, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
    """The cosine of each image and its text, `[batch]`."""
    if not hasattr(model, "text_model"):
        raise ValueError(f"a {type(model).__name__} reads no texts: explain a class, or open a CLIP")
    check_targets(input_ids, pixel_values)
    outputs = model(input_ids=input_ids, pixel_values=pixel_values, **forward_options(model.config))
    return (outputs.image_embeds * outputs.text_embeds).sum(dim=1)
