"""The presets: named architectures and their sizes."""

from transformers.configuration_utils import PreTrainedConfig

from .configuration_clip import SuiteCLIPConfig
from .configuration_dino import SuiteDINOConfig
from .configuration_mae import SuiteMAEConfig
from .configuration_vit import SuiteViTConfig

# (hidden_size, num_hidden_layers, num_attention_heads): ViT table 1, DeiT table 1, DINOv2 table 17.
SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
    "giant": (1536, 40, 24),
}
# (size, patch size, image sizes) published by ViT (2010.11929) and AugReg (2106.10270), with timm's names.
VIT_VARIANTS = (
    ("tiny", 16, (224, 384)),
    ("small", 8, (224,)),
    ("small", 16, (224, 384)),
    ("small", 32, (224, 384)),
    ("base", 8, (224,)),
    ("base", 16, (224, 384)),
    ("base", 32, (224, 384)),
    ("large", 14, (224,)),
    ("large", 16, (224, 384)),
    ("large", 32, (224, 384)),
    ("huge", 14, (224,)),
)
# DeiT (2012.12877, table 5).
DEIT_VARIANTS = (("tiny", 224), ("small", 224), ("base", 224), ("base", 384))


def trunk_fields(size: str) -> dict:
    """Width, depth, heads and MLP width of a named size."""
    hidden, layers, heads = SIZES[size]
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
    }


def vit_presets() -> dict[str, dict]:
    """ViT and DeiT classifiers with 1,000 labels."""
    presets = {}
    for size, patch, images in VIT_VARIANTS:
        for image in images:
            fields = {**trunk_fields(size), "patch_size": patch, "image_size": image, "num_labels": 1000}
            presets[f"vit_{size}_patch{patch}_{image}"] = fields
    for size, image in DEIT_VARIANTS:
        fields = {**trunk_fields(size), "image_size": image, "num_labels": 1000}
        presets[f"deit_{size}_patch16_{image}"] = fields
        presets[f"deit_{size}_distilled_patch16_{image}"] = {**fields, "use_distillation_token": True}
    return presets


def dinov2_presets() -> dict[str, dict]:
    """DINOv2 backbones (2304.07193) and those with registers (2309.16588), without a head."""
    presets = {}
    for letter, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant")):
        fields = {
            **trunk_fields(size),
            "patch_size": 14,
            "image_size": 518,
            "layer_scale_init_value": 1.0,
            "use_mask_token": True,
            "num_labels": 0,
        }
        if size == "giant":
            # SwiGLU has two thirds of the MLP's width, so that the parameter count stays equal.
            fields |= {"mlp_type": "swiglu", "intermediate_size": 4096}
        presets[f"dinov2_vit{letter}14"] = {**fields, "position_interpolation_offset": 0.1}
        presets[f"dinov2_vit{letter}14_reg"] = {
            **fields,
            "num_register_tokens": 4,
            "position_interpolation_antialias": True,
        }
    return presets


def mae_presets() -> dict[str, dict]:
    """Masked autoencoders (2111.06377, section 4 and table 1): encoders by size, one decoder for all."""
    return {
        f"mae_vit_{size}": {**trunk_fields(size), "patch_size": 14 if size == "huge" else 16, "num_labels": 0}
        for size in ("base", "large", "huge")
    }


def dino_presets() -> dict[str, dict]:
    """DINO's vision transformers (2104.14294, table 1); the small ones have `head_learned_gain`."""
    return {
        f"dino_vit{size[0]}{patch}": {
            **trunk_fields(size),
            "patch_size": patch,
            "head_learned_gain": size == "small",
            "num_labels": 0,
        }
        for size in ("small", "base")
        for patch in (8, 16)
    }


def clip_presets() -> dict[str, dict]:
    """CLIP (2103.00020, table 20): image towers by size, patch size and image size; text width grows with size."""
    presets = {}
    for size, patch, image, ending in (
        ("base", 32, 224, ""),
        ("base", 16, 224, ""),
        ("large", 14, 224, ""),
        ("large", 14, 336, "_336"),
    ):
        projection, text_width, text_heads = (512, 512, 8) if size == "base" else (768, 768, 12)
        presets[f"clip_vit_{size[0]}_{patch}{ending}"] = {
            "vision_config": {**trunk_fields(size), "patch_size": patch, "image_size": image},
            "text_config": {
                "hidden_size": text_width,
                "num_attention_heads": text_heads,
                "intermediate_size": 4 * text_width,
            },
            "projection_dim": projection,
        }
    return presets


PRESETS: dict[str, tuple[type[PreTrainedConfig], dict]] = {
    name: (config_class, fields)
    for config_class, presets in (
        (SuiteViTConfig, {**vit_presets(), **dinov2_presets()}),
        (SuiteMAEConfig, mae_presets()),
        (SuiteDINOConfig, dino_presets()),
        (SuiteCLIPConfig, clip_presets()),
    )
    for name, fields in presets.items()
}


def list_presets() -> list[str]:
    """Names of all presets, grouped by family."""
    return list(PRESETS)


def preset_config(name: str, **overrides) -> PreTrainedConfig:
    """The configuration of a preset.

    Args:
        name: One of `list_presets()`.
        **overrides: Config fields to override, e.g. `num_labels=10, drop_path_rate=0.1`; for a tower, a dict of its
            fields to override, e.g. `vision_config={"patch_dropout": 0.5}`.

    Raises:
        ValueError: If there is no such preset, or no such field.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is named {name!r}: `hf-vit-suite models` lists them, e.g. vit_small_patch16_224")
    config_class, fields = PRESETS[name]
    return config_class(**changed_fields(config_class, fields, overrides))


def changed_fields(config_class: type[PreTrainedConfig], fields: dict, overrides: dict) -> dict:
    """`fields` with `overrides` applied; sub-configs are merged field by field."""
    known = {*config_class.__dataclass_fields__, "num_labels", "out_features", "out_indices"}
    if unknown := sorted(set(overrides) - known):
        raise ValueError(f"{config_class.__name__} has no field {', '.join(unknown)}")
    parts = {
        part: changed_fields(part_class, fields.get(part, {}), overrides[part])
        for part, part_class in config_class.sub_configs.items()
        if part in overrides
    }
    return {**fields, **overrides, **parts}


__all__ = ["list_presets", "preset_config"]
