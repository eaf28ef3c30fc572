"""Presets have the published sizes."""

import open_clip
import pytest
import timm
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)

from hf_vit_suite import list_presets, preset_config

PUBLISHED = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_small_patch16_224": 22_050_664,
    "vit_base_patch16_224": 86_567_656,
    "deit_small_distilled_patch16_224": 22_436_432,
    "dinov2_vits14": 22_056_576,
    "dinov2_vitg14_reg": 1_136_486_912,
    "dino_vits16": 21_665_664,
    "mae_vit_base": 85_798_656,
    "mae_vit_large": 303_301_632,
    "mae_vit_huge": 630_764_800,
    "clip_vit_b_32": 151_277_313,
    "clip_vit_l_14": 427_616_513,
}
TIMM_SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}


def parameters(name: str) -> int:
    """Parameters of a preset, counted without allocating them."""
    config = preset_config(name)
    is_classifier = config.num_labels and not name.startswith("clip")
    with torch.device("meta"):
        return (AutoModelForImageClassification if is_classifier else AutoModel).from_config(config).num_parameters()


def timm_model(name: str, classes: int) -> torch.nn.Module:
    """timm's model of the same architecture, without memory for its weights."""
    if name.startswith("dino"):
        family, variant, *registers = name.split("_")
        size, patch = TIMM_SIZES[variant[3]], variant[4:]
        ending = f"{'_reg4' if registers else ''}_dinov2" if family == "dinov2" else "_224.dino"
        name = f"vit_{size}_patch{patch}{ending}"
    with torch.device("meta"):
        return timm.create_model(name, num_classes=classes)


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_count_is_the_published_one(name: str, count: int):
    assert parameters(name) == count


@pytest.mark.parametrize("name", [name for name in list_presets() if not name.startswith(("mae", "clip"))])
def test_parameter_count_and_what_it_does_not_show_equal_timm(name: str):
    config = preset_config(name)
    reference = timm_model(name, config.num_labels)
    # timm leaves out the mask token that the published DINOv2 files hold, and where there are registers it adds the
    # class token's position to the class token.
    tokens = name.startswith("dinov2") + (config.num_register_tokens > 0)
    count = sum(weight.numel() for weight in reference.parameters())
    assert parameters(name) == count + tokens * config.hidden_size
    assert config.num_attention_heads == reference.blocks[0].attn.num_heads
    assert config.grid_height_width == reference.patch_embed.grid_size
    assert config.layer_norm_eps == reference.norm.eps


@pytest.mark.parametrize("name", [name for name in list_presets() if name.startswith("mae")])
def test_masked_autoencoder_has_the_parameters_of_transformers(name: str):
    config = preset_config(name)
    shared = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size")
    with torch.device("meta"):
        ours = AutoModelForPreTraining.from_config(config)
        theirs = ViTMAEForPreTraining(ViTMAEConfig(**{field: getattr(config, field) for field in shared}))
    assert ours.num_parameters() == theirs.num_parameters()
    assert ours.vit.num_parameters() == theirs.vit.num_parameters()
    assert config.layer_norm_eps == 1e-6


@pytest.mark.parametrize("name", [name for name in list_presets() if name.startswith("clip")])
def test_clip_has_the_parameters_and_heads_of_open_clip(name: str):
    config = preset_config(name)
    _, _, size, patch, *image = name.split("_")
    theirs = open_clip.create_model("-".join(["ViT", size.upper(), patch, *image, "quickgelu"]), device="meta")
    assert parameters(name) == sum(weight.numel() for weight in theirs.parameters())
    blocks = (theirs.visual.transformer.resblocks, theirs.transformer.resblocks)
    for tower, reference in zip((config.vision_config, config.text_config), blocks, strict=True):
        assert tower.num_hidden_layers == len(reference)
        assert tower.num_attention_heads == reference[0].attn.num_heads
        assert tower.layer_norm_eps == reference[0].ln_1.eps
    assert config.vision_config.grid_height_width == theirs.visual.grid_size
    assert config.text_config.max_position_embeddings == theirs.context_length


def test_fields_of_a_tower_are_changed_one_by_one():
    changed = preset_config("clip_vit_b_16", vision_config={"patch_dropout": 0.5})
    plain = preset_config("clip_vit_b_16")
    assert changed.vision_config.to_dict() == plain.vision_config.to_dict() | {"patch_dropout": 0.5}
    assert changed.text_config.to_dict() == plain.text_config.to_dict()
    with pytest.raises(ValueError, match="SuiteCLIPTextConfig has no field depth"):
        preset_config("clip_vit_b_16", text_config={"depth": 3})


@pytest.mark.parametrize("name", list_presets())
def test_preset_survives_a_file(name: str, tmp_path):
    config = preset_config(name)
    config.save_pretrained(tmp_path)
    reopened = AutoConfig.from_pretrained(tmp_path)
    assert type(reopened) is type(config)
    assert reopened.to_diff_dict() == config.to_diff_dict()


def test_override_changes_the_named_field_alone():
    changed, plain = preset_config("vit_tiny_patch16_224", num_labels=7), preset_config("vit_tiny_patch16_224")
    assert changed.num_labels == 7
    labels = {"id2label", "label2id"}
    assert {k: v for k, v in changed.to_dict().items() if k not in labels} == {
        k: v for k, v in plain.to_dict().items() if k not in labels
    }


def test_unknown_preset_and_field_are_refused_by_name():
    with pytest.raises(ValueError, match=r"no preset is named 'vit_tiny'.*hf-vit-suite models"):
        preset_config("vit_tiny")
    with pytest.raises(ValueError, match="SuiteViTConfig has no field width"):
        preset_config("vit_tiny_patch16_224", width=3)
