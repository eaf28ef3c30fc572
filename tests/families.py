"""Every model family in its tiny forms: by its entry here a family joins `models/test_every_family.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PretrainedConfig

from hf_vit_suite import SuiteViTConfig

TINY_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}


def image_inputs(config: PretrainedConfig) -> dict[str, Tensor]:
    """Two random images of the config's size."""
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, config.num_channels, *config.image_height_width, generator=generator)}


@dataclass(frozen=True)
class Family:
    """A tiny form of a family.

    Args:
        name: Of the test case.
        config: Makes the tiny config.
        auto_classes: Names of the Auto classes that open its folder.
        inputs: Makes forward's arguments from a config.
        unused: Ends of the names of the parameters that a plain forward leaves without gradient, and no others.
    """

    name: str
    config: Callable[[], PretrainedConfig]
    auto_classes: tuple[str, ...]
    inputs: Callable[[PretrainedConfig], dict[str, Tensor]] = image_inputs
    unused: tuple[str, ...] = field(default=())


VIT_CLASSES = ("AutoModel", "AutoModelForImageClassification", "AutoBackbone")

FAMILIES = [
    Family("vit", lambda: SuiteViTConfig(**TINY_VIT), VIT_CLASSES),
    Family("vit-distilled", lambda: SuiteViTConfig(**TINY_VIT, use_distillation_token=True), VIT_CLASSES),
    Family(
        "vit-dinov2",
        lambda: SuiteViTConfig(
            **TINY_VIT,
            num_register_tokens=2,
            layer_scale_init_value=0.5,
            mlp_type="swiglu",
            use_mask_token=True,
            position_interpolation_antialias=True,
        ),
        VIT_CLASSES,
        unused=("mask_token",),
    ),
    Family(
        "vit-mean-sincos",
        lambda: SuiteViTConfig(**TINY_VIT, pooling="mean", position_embedding_type="sincos", qkv_bias=False),
        VIT_CLASSES,
    ),
]

# The first form of each model_type, for what is slow and differs between families, not between their forms.
REPRESENTATIVES = list({family.config().model_type: family for family in reversed(FAMILIES)}.values())
