"""timm's VisionTransformer: ViT, DeiT, DeiT-III, DINO, DINOv2 and the image towers of CLIP.

Source: https://github.com/huggingface/pytorch-image-models, `timm/models/vision_transformer.py` and `deit.py`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification, SuiteViTModel

from ..layout import (
    BICUBIC,
    BILINEAR,
    HALF,
    Evidence,
    Form,
    Layout,
    block_rules,
    cropped,
    encoder_fields,
    label_count,
    layer_scale_rules,
)
from ..rules import Rule, leave, rename, within


def with_class_position(cls_token: Tensor, pos_embed: Tensor) -> tuple[Tensor, Tensor]:
    """Prepends a zero position embedding for the class token to position embeddings of patches alone."""
    zeros = torch.zeros_like(pos_embed[:, :1])
    return cls_token, torch.cat((zeros, pos_embed), dim=1)


def into_class_token(cls_token: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse: adds the class token's position embedding to the token, since models use only their sum."""
    position = positions[:, :1]
    return torch.where(position == 0, cls_token, cls_token + position), positions[:, 1:]


CLASS_WITHOUT_POSITION = Rule(
    ("cls_token", "pos_embed"),
    ("embeddings.cls_token", "embeddings.position_embeddings"),
    with_class_position,
    into_class_token,
)


def timm_encoder_rules(config: SuiteViTConfig, has_class_position: bool) -> list[Rule]:
    """Rules of the encoder."""
    tokens = [
        rename("cls_token", "embeddings.cls_token"),
        rename("pos_embed", "embeddings.position_embeddings"),
    ]
    # timm's SwiGLU has the names of the plain MLP.
    gated = [
        rename("blocks.{layer}.mlp.fc1.{parameter}", "encoder.blocks.{layer}.mlp.gate_up.{parameter}"),
        rename("blocks.{layer}.mlp.fc2.{parameter}", "encoder.blocks.{layer}.mlp.down.{parameter}"),
    ]
    norm = "fc_norm" if config.pooling == "mean" else "norm"
    return [
        leave("embeddings.mask_token", "timm's models mask no patches"),
        rename("dist_token", "embeddings.distillation_token"),
        rename("reg_token", "embeddings.register_tokens"),
        *(tokens if has_class_position else [CLASS_WITHOUT_POSITION]),
        rename("patch_embed.proj.{parameter}", "embeddings.patch_embeddings.projection.{parameter}"),
        rename("norm_pre.{parameter}", "pre_norm.{parameter}"),
        *(gated if config.mlp_type == "swiglu" else []),
        *block_rules(),
        *layer_scale_rules(),
        rename(f"{norm}.{{parameter}}", "norm.{parameter}"),
        rename("pre_logits.fc.{parameter}", "pre_logits.0.{parameter}"),
    ]


def classifier_rules(config: SuiteViTConfig, has_class_position: bool) -> list[Rule]:
    """Rules of the encoder and its heads."""
    return [
        *within(timm_encoder_rules(config, has_class_position), ours="vit."),
        rename("head.{parameter}", "classifier.{parameter}"),
        rename("head_dist.{parameter}", "distillation_classifier.{parameter}"),
    ]


def has_class_position(evidence: Evidence) -> bool:
    """Whether `pos_embed` covers the class token: there is a `dist_token`, or its number of rows is not a square."""
    rows = evidence.shapes["pos_embed"][1]
    return evidence.has("dist_token") or round(rows**0.5) ** 2 != rows


def config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration from shapes, and for CLIP's towers from names."""
    shapes = evidence.shapes
    if evidence.has("blocks.0.attn.q_norm.weight") or evidence.has("attn_pool.q.weight"):
        raise ValueError("this timm model normalises queries or pools by attention, which no family here does")
    if evidence.settings.get("global_pool") == "avg" and not evidence.has("fc_norm.weight"):
        raise ValueError("this timm model normalises tokens before it takes their mean, which no family here does")
    has_distillation = evidence.has("dist_token")
    fields = encoder_fields(evidence, has_class_position(evidence) + has_distillation)
    if fields["intermediate_size"] == 2 * shapes["blocks.0.mlp.fc2.weight"][1]:
        fields |= {"mlp_type": "swiglu", "intermediate_size": shapes["blocks.0.mlp.fc2.weight"][1]}
    has_scale = evidence.has("blocks.0.ls1.gamma") or evidence.has("blocks.0.gamma_1")  # the latter is DeiT-III's name
    fields |= {
        "use_distillation_token": has_distillation,
        "num_register_tokens": shapes["reg_token"][1] if evidence.has("reg_token") else 0,
        "layer_scale_init_value": 1e-5 if has_scale else None,
        "use_patch_bias": evidence.has("patch_embed.proj.bias"),
        "use_pre_norm": evidence.has("norm_pre.weight"),
        "pooling": "mean" if evidence.has("fc_norm.weight") else "cls",
        "representation_size": shapes["pre_logits.fc.bias"][0] if evidence.has("pre_logits.fc.bias") else None,
        "position_interpolation_antialias": True,
        "num_labels": label_count(evidence),
    }
    return SuiteViTConfig(**(fields | activation_and_epsilon(evidence)))


def activation_and_epsilon(evidence: Evidence) -> dict[str, Any]:
    """Activation and epsilon of CLIP's towers, from the model's name, since shapes don't determine them."""
    if not evidence.has("norm_pre.weight"):
        return {}
    name = evidence.settings.get("architecture", evidence.name)
    return {"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu" if "quickgelu" in name else "gelu"}


def holds(config: SuiteViTConfig, has_class_position: bool) -> bool:
    """Whether timm has such a model. Its registers require position embeddings without the class token's."""
    reads_pooled = config.classifier_layers == 1 and not config.classifier_patch_mean
    is_clip = config.use_pre_norm and config.layer_norm_eps == 1e-5 and config.hidden_act in ("gelu", "quick_gelu")
    is_plain = config.hidden_act == "gelu" and config.layer_norm_eps == 1e-6 and not config.use_pre_norm
    is_possible = config.num_register_tokens == 0 if has_class_position else not config.use_distillation_token
    return (is_clip or is_plain) and reads_pooled and is_possible


def form(has_head: bool, with_class_position: bool) -> Form:
    """One of timm's four forms: with or without a head, with or without a position embedding of the class token."""
    rules = classifier_rules if has_head else timm_encoder_rules

    def recognises(evidence: Evidence) -> bool:
        return (
            evidence.has("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
            and evidence.has("head.weight") == has_head
            and has_class_position(evidence) == with_class_position
        )

    return Form(
        name=f"{'classifier' if has_head else 'encoder'}, class token {'with' if with_class_position else 'without'} "
        "position",
        model=SuiteViTForImageClassification if has_head else SuiteViTModel,
        recognises=recognises,
        config=config,
        rules=lambda config: rules(config, with_class_position),
        holds=lambda config: holds(config, with_class_position),
        suffix=".safetensors",
    )


def image_processor(config: SuiteViTConfig, evidence: Evidence) -> dict[str, Any]:
    """Preprocessing from timm's `pretrained_cfg`, else by name: ImageNet's or AugReg's mean and deviation."""
    told = evidence.settings.get("pretrained_cfg", evidence.settings)
    is_imagenet = any(part in evidence.name for part in ("deit", "dino", "mae", "lvd142m"))
    return cropped(
        config,
        share=told.get("crop_pct", 0.9),
        mean=list(told.get("mean", IMAGENET_DEFAULT_MEAN if is_imagenet else HALF)),
        std=list(told.get("std", IMAGENET_DEFAULT_STD if is_imagenet else HALF)),
        resample=BILINEAR if told.get("interpolation") == "bilinear" else BICUBIC,
    )


LAYOUT = Layout(
    name="timm",
    forms=tuple(form(has_head, position) for has_head in (True, False) for position in (True, False)),
    image_processor=image_processor,
)
