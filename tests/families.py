"""Every model family in its tiny forms: by its entry here a family joins `models/test_every_family.py`."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPTextConfig,
    SuiteCLIPVisionConfig,
    SuiteDINOConfig,
    SuiteDINOForPreTraining,
    SuiteMAEConfig,
    SuiteMAEForPreTraining,
    SuiteViTConfig,
)

TINY_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 3,
}


TINY_MAE = {
    **{name: value for name, value in TINY_VIT.items() if name != "num_labels"},
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}

TINY_DINO = {
    **{name: value for name, value in TINY_VIT.items() if name != "num_labels"},
    "head_hidden_size": 48,
    "head_bottleneck_size": 16,
    "num_prototypes": 40,
}

TINY_CLIP_VISION = {**{name: value for name, value in TINY_VIT.items() if name != "num_labels"}, "projection_dim": 16}
TINY_CLIP_TEXT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "bos_token_id": 58,
    "eos_token_id": 59,
    "pad_token_id": 59,
    "projection_dim": 16,
}


def image_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two random images of the config's size."""
    generator = torch.Generator().manual_seed(0)
    size = (model.config.num_channels, *model.config.image_height_width)
    return {"pixel_values": torch.randn(2, *size, generator=generator)}


def mae_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two images, and for pretraining the noise that draws the mask."""
    inputs = image_inputs(model)
    if isinstance(model, SuiteMAEForPreTraining):
        rows, columns = model.config.grid_height_width
        inputs["noise"] = torch.rand(2, rows * columns, generator=torch.Generator().manual_seed(0))
    return inputs


def mae_encoder_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """The patches that the noise leaves visible."""
    inputs = mae_inputs(model)
    if "noise" in inputs:
        noise = inputs.pop("noise")
        inputs["visible"] = noise.argsort(dim=1)[:, : model.config.num_visible(noise.shape[1])]
    return inputs


def dino_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two images, and for pretraining two global and three local crops of each."""
    if not isinstance(model, SuiteDINOForPreTraining):
        return image_inputs(model)
    generator = torch.Generator().manual_seed(0)
    return {
        "pixel_values": torch.randn(2, 2, 3, 32, 32, generator=generator),
        "local_pixel_values": torch.randn(2, 3, 3, 16, 16, generator=generator),
    }


def dino_encoder_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """The crops that the teacher sees."""
    inputs = dino_inputs(model)
    return {"pixel_values": inputs["pixel_values"].view(-1, 3, 32, 32)}


def text_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two random texts of different length."""
    input_ids = torch.randint(0, 58, (2, 9), generator=torch.Generator().manual_seed(0))
    input_ids[:, 0], input_ids[0, 6:], input_ids[1, 8] = 58, 59, 59
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def clip_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Two images and two texts."""
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator), **text_inputs(model), "return_loss": True}


@dataclass(frozen=True)
class Family:
    """A tiny form of a family.

    Args:
        name: Of the test case.
        config: Makes the tiny config.
        auto_classes: Names of the Auto classes that open its folder.
        other_classes: Names of its classes that no Auto class opens.
        inputs: Makes forward's arguments for a model, whichever of the family's classes it is of.
        encoder_inputs: What such a model then gives its encoder.
        towers: How many encoders a model has; only one alone returns attentions and hidden states of its own.
        unused: Ends of the names of the parameters that a plain forward leaves without gradient, and no others.
    """

    name: str
    config: Callable[[], PretrainedConfig]
    auto_classes: tuple[str, ...]
    inputs: Callable[[PreTrainedModel], dict[str, Tensor]] = image_inputs
    encoder_inputs: Callable[[PreTrainedModel], dict[str, Tensor]] = image_inputs
    other_classes: tuple[str, ...] = ()
    towers: int = 1
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
    Family(
        "mae",
        lambda: SuiteMAEConfig(**TINY_MAE, norm_pix_loss=True),
        ("AutoModel", "AutoModelForPreTraining", "AutoBackbone"),
        inputs=mae_inputs,
        encoder_inputs=mae_encoder_inputs,
    ),
    Family(
        "dino",
        lambda: SuiteDINOConfig(**TINY_DINO, head_learned_gain=True),
        ("AutoModel", "AutoModelForPreTraining", "AutoBackbone"),
        inputs=dino_inputs,
        encoder_inputs=dino_encoder_inputs,
    ),
    Family(
        "clip",
        lambda: SuiteCLIPConfig(vision_config=TINY_CLIP_VISION, text_config=TINY_CLIP_TEXT),
        ("AutoModel", "AutoModelForZeroShotImageClassification"),
        inputs=clip_inputs,
        towers=2,
    ),
    Family(
        "clip-image",
        lambda: SuiteCLIPVisionConfig(**TINY_CLIP_VISION),
        ("AutoModel", "AutoBackbone"),
        other_classes=("SuiteCLIPVisionModelWithProjection",),
    ),
    Family(
        "clip-text",
        lambda: SuiteCLIPTextConfig(**TINY_CLIP_TEXT),
        ("AutoModel", "AutoModelForTextEncoding"),
        inputs=text_inputs,
        encoder_inputs=text_inputs,
        other_classes=("SuiteCLIPTextModelWithProjection",),
    ),
]
# Those whose outputs have the attentions of one encoder.
WITH_ONE_TOWER = [family for family in FAMILIES if family.towers == 1]

# The first form of each family, for what is slow and differs between families, not between their forms.
REPRESENTATIVES = list({type(family.config()).__module__: family for family in reversed(FAMILIES)}.values())
