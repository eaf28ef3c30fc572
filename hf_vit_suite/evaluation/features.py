"""One feature vector per image, from any image model of transformers."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig, PreTrainedModel

from ..data import ImageTransform, apply_transform, collate_images, evaluation_transform, has_label
from ..inference.opening import best_device, open_pretrained

POOLINGS = ("default", "cls", "mean")


@dataclass(frozen=True)
class Features:
    """Features of a split.

    Args:
        values: `[images, width]`, float32, on the CPU.
        labels: `[images]`, label numbers.
        unreadable: A line for each image that could not be decoded and is left out.
    """

    values: Tensor
    labels: Tensor
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FeatureExtractor:
    """A model, and how its output becomes one vector per image.

    Args:
        model: Any image model of transformers, in evaluation mode.
        processor: Its image processor.
        pooling: `"default"`, the model's own pooled or projected features, else the class token, else the mean;
            `"cls"`, the class token; `"mean"`, the mean of the patches.
        has_pooler: Whether the model's own pooled output can be used.
    """

    model: PreTrainedModel
    processor: Callable
    pooling: str = "default"
    has_pooler: bool = True

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """`[images, channels, height, width]`, on the model's device, -> `[images, width]`.

        Raises:
            ValueError: If pooling is `"cls"` and the model has no class token.
        """
        model = self.model
        if hasattr(model, "get_image_features"):  # a tower of images beside one of text
            if self.pooling == "default":
                return model.get_image_features(pixel_values=pixel_values).pooler_output
            model = model.vision_model
        outputs = model(pixel_values=pixel_values)
        pooled = getattr(outputs, "pooler_output", None)
        if self.pooling == "default" and self.has_pooler and pooled is not None:
            return pooled.flatten(1)  # (B, D, 1, 1) of convolutional networks -> (B, D)
        tokens = outputs.last_hidden_state
        num_prefix_tokens = surplus_tokens(model.config, tokens, pixel_values)
        if self.pooling == "mean" or (self.pooling == "default" and not num_prefix_tokens):
            return tokens.mean(dim=(2, 3)) if tokens.ndim == 4 else tokens[:, num_prefix_tokens:].mean(dim=1)
        if not num_prefix_tokens:
            raise ValueError(f"a {model.config.model_type} has no class token: choose pooling default or mean")
        return tokens[:, 0]


def surplus_tokens(config: PretrainedConfig, tokens: Tensor, pixel_values: Tensor) -> int:
    """Number of prefix tokens: tokens of `[images, tokens, width]` beyond the patches of the image."""
    patch_size = getattr(config, "patch_size", None)
    if tokens.ndim != 3 or patch_size is None:
        return 0
    rows, columns = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
    height, width = pixel_values.shape[-2:]
    return max(tokens.shape[1] - (height // rows) * (width // columns), 0)


def open_extractor(
    name: str, pooling: str = "default", random_weights: bool = False, seed: int = 0
) -> FeatureExtractor:
    """Opens a model as a feature extractor, on an accelerator if there is one.

    Args:
        name: Folder or Hub name of any image model of transformers.
        pooling: As in `FeatureExtractor`.
        random_weights: Whether to initialise the architecture anew, as a baseline.
        seed: Seed of those weights.

    Raises:
        ValueError: If there is no such model, or no such pooling.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    config = open_pretrained(AutoConfig, name)
    if config.model_type == "vit_mae":
        config.mask_ratio = 0.0  # it would mask at evaluation too
    model, loaded = open_pretrained(AutoModel, name, config=config, output_loading_info=True)
    # A classifier's checkpoint of transformers' ViT has no weights for the pooler: what it gives would be random.
    has_pooler = not any("pooler" in key for key in loaded["missing_keys"])
    if random_weights:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = AutoModel.from_config(config)
    processor = open_pretrained(AutoImageProcessor, name)
    return FeatureExtractor(model.eval().to(best_device()), processor, pooling, has_pooler)


def extract_features(
    extractor: FeatureExtractor,
    split: Dataset,
    batch_size: int = 64,
    bf16: bool = False,
    description: str = "features",
    strict: bool = False,
) -> Features:
    """Features of every readable image of a split, each seen once.

    Args:
        extractor: From `open_extractor`.
        split: Rows with the columns `image` and `label`.
        batch_size: Images per forward pass.
        bf16: Whether to compute in bfloat16.
        description: Text of the progress bar.
        strict: Raise an error on an unreadable image.
    """
    return Features(
        *run_over_images(
            extractor, extractor.model.device, extractor.processor, split, batch_size, bf16, description, strict
        )
    )


@torch.inference_mode()
def run_over_images(
    compute: Callable[[Tensor], Tensor],
    device: torch.device,
    processor: Callable,
    split: Dataset,
    batch_size: int,
    bf16: bool,
    description: str,
    strict: bool = False,
) -> tuple[Tensor, Tensor, list[str]]:
    """Applies `compute` to every readable image.

    Returns:
        Its values `[images, values]` in float32, the labels `[images]` or `[images, labels]`, and a line for each
        unreadable image.
    """
    rows = apply_transform(split, ImageTransform(evaluation_transform(processor)), strict, description)
    workers = 0 if device.type == "cpu" else 4
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collate_images, num_workers=workers)
    values, labels = [], []
    for batch in tqdm(loader, desc=description, leave=False, disable=None):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            values.append(compute(batch["pixel_values"].to(device)).float().cpu())
        labels.append(batch["labels"])
    every = torch.cat(labels)
    kept = has_label(every)
    return torch.cat(values)[kept], every[kept], rows.problems()
