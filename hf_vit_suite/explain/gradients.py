"""Relevance of patches for a class or text: attention weighted by the gradient of the score."""

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
    """Relevance of each patch for a class, or for the similarity with a text (Chefer et al. 2021, arXiv 2103.15679).

    The positive part of attention times gradient, averaged over heads (eq. 5), is accumulated over the layers (eq. 6).
    Only the pooled token's row of the product is needed, so it is multiplied from the left, from the last layer to
    the first, as the backward pass visits them: only one layer's maps are in memory at a time.

    Args:
        model: A classifier or CLIP that `image_encoder` supports, in evaluation mode, with any attention backend.
            Weights may be frozen.
        pixel_values: `[batch, channels, height, width]`, normalised.
        target: One class for all images or one per image; default the predicted class.
        input_ids: For CLIP instead of a class: the text of each image, `[batch, tokens]`.
        layer: First layer to accumulate; negative ones count from the end; default 0, all layers.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`, non-negative. If the model pools
        patches or has a distillation token, the mean over the pooled tokens.

    Raises:
        ValueError: If the model has neither classes nor texts or is not supported, or the class does not exist.
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
    """Grad-SAM: attention of the pooled tokens times the positive part of its gradient (Barkan et al. 2021).

    Source: arXiv 2204.11073, eq. 2 and 3: the mean over layers and heads.

    Args:
        model: As in `relevance`, likewise `pixel_values`, `target` and `input_ids`.
        pixel_values: `[batch, channels, height, width]`.
        target: Default the predicted class.
        input_ids: For CLIP instead of a class, `[batch, tokens]`.
        layer: Default the mean over layers.
        head: Default the mean over heads.
        resize: Resize the maps from the patch grid to the images' resolution.

    Returns:
        `[batch, height, width]`, or on the patch grid `[batch, rows, columns]`, non-negative.

    Raises:
        ValueError: As in `relevance`, or if layer or head don't exist.
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
    """(A x dA)+ in float32, equal to A x dA+ because the weights are non-negative."""
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
    """Runs the forward and backward pass of each image's score with `observe` on the layers."""
    encoder.grid(pixel_values)
    with torch.enable_grad(), observed(model, observe, layers, with_gradients=True) as watched:
        # The images require a gradient so that a graph exists even if every weight is frozen.
        pixel_values = pixel_values.detach().requires_grad_()
        if input_ids is None:
            scores = class_scores(watched, pixel_values, target)
        else:
            scores = text_scores(watched, pixel_values, input_ids)
        torch.autograd.grad(scores.sum(), pixel_values)


def class_scores(model: PreTrainedModel, pixel_values: Tensor, target: Target) -> Tensor:
    """Logit of each image's target class, `[batch]`."""
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
    """Whether a model is an image classifier with at least one class."""
    return type(model).__name__.endswith("ForImageClassification") and model.config.num_labels > 0


def classify(model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """Returns the logits of images of any size, `[batch, labels]`."""
    return model(pixel_values=pixel_values, **forward_options(model.config)).logits


def text_scores(model: PreTrainedModel, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
    """Cosine similarity of each image and its text, `[batch]`."""
    if not hasattr(model, "text_model"):
        raise ValueError(f"a {type(model).__name__} reads no texts: explain a class, or open a CLIP")
    check_targets(input_ids, pixel_values)
    outputs = model(input_ids=input_ids, pixel_values=pixel_values, **forward_options(model.config))
    return (outputs.image_embeds * outputs.text_embeds).sum(dim=1)
