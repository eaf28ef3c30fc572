"""DINOv2's .pth (arXiv 2304.07193), with and without registers (arXiv 2309.16588), and their linear classifiers.

Source: https://github.com/facebookresearch/dinov2, `dinov2/models/vision_transformer.py` and `dinov2/hub/`.
"""

from typing import Any

from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification, SuiteViTModel

from ..layout import (
    HEAD,
    Evidence,
    Form,
    Layout,
    cropped,
    encoder_fields,
    has_published_blocks,
    layer_scale_rules,
    trunk_rules,
)
from ..rules import Rule, rename, within


def backbone(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the backbone."""
    gated = [
        rename("mlp.w12.{parameter}", "mlp.gate_up.{parameter}"),
        rename("mlp.w3.{parameter}", "mlp.down.{parameter}"),
    ]
    return [
        *trunk_rules(),
        rename("mask_token", "embeddings.mask_token"),
        rename("register_tokens", "embeddings.register_tokens"),
        *layer_scale_rules(),
        *within(gated, "blocks.{layer}.", "encoder.blocks.{layer}."),
        rename("norm.{parameter}", "norm.{parameter}"),
    ]


def classifier(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the backbone and its linear classifier."""
    return [*within(backbone(config), ours="vit."), rename(f"{HEAD}{{parameter}}", "classifier.{parameter}")]


def backbone_fields(evidence: Evidence) -> dict[str, Any]:
    """Config fields of the backbone. Position interpolation depends on registers, as in the published code."""
    shapes = evidence.shapes
    is_gated = evidence.has("blocks.0.mlp.w12.weight")
    has_registers = evidence.has("register_tokens")
    return {
        **encoder_fields(evidence),
        "mlp_type": "swiglu" if is_gated else "gelu",
        "intermediate_size": shapes["blocks.0.mlp.w3.weight"][1] if is_gated else shapes["blocks.0.mlp.fc1.weight"][0],
        "layer_scale_init_value": 1.0,
        "use_mask_token": evidence.has("mask_token"),
        "num_register_tokens": shapes["register_tokens"][1] if has_registers else 0,
        "position_interpolation_offset": 0.0 if has_registers else 0.1,
        "position_interpolation_antialias": has_registers,
    }


def classifier_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of the classifier, which reads the class tokens of the last 1 or 4 layers and the patch mean."""
    labels, width = evidence.shapes[f"{HEAD}weight"]
    fields = backbone_fields(evidence)
    parts, rest = divmod(width, fields["hidden_size"])
    if rest or parts not in (2, 5):
        raise ValueError(f"a classifier of {width} inputs does not belong to a backbone {fields['hidden_size']} wide")
    return SuiteViTConfig(**fields, classifier_layers=parts - 1, classifier_patch_mean=True, num_labels=labels)


def is_backbone(evidence: Evidence) -> bool:
    """Whether a file has a backbone with LayerScale, and a mask token or registers under DINOv2's names."""
    return evidence.has("cls_token", "blocks.0.ls1.gamma") and (
        evidence.has("mask_token") or evidence.has("register_tokens")
    )


def holds(config: SuiteViTConfig) -> bool:
    """Whether DINOv2's code can have such a backbone."""
    return (
        has_published_blocks(config)
        and config.pooling == "cls"
        and config.representation_size is None
        and config.layer_scale_init_value is not None
        and config.has_mask_token
        and not config.use_distillation_token
    )


LAYOUT = Layout(
    name="dinov2",
    forms=(
        Form(
            name="classifier",
            model=SuiteViTForImageClassification,
            recognises=lambda evidence: is_backbone(evidence) and evidence.has(f"{HEAD}weight"),
            config=classifier_config,
            rules=classifier,
            holds=lambda config: holds(config) and config.classifier_patch_mean,
            head_root="",
        ),
        Form(
            name="backbone",
            model=SuiteViTModel,
            recognises=is_backbone,
            config=lambda evidence: SuiteViTConfig(**backbone_fields(evidence), num_labels=0),
            rules=backbone,
            holds=holds,
        ),
    ),
    image_processor=lambda config, evidence: cropped(config, image_size=224),
)
