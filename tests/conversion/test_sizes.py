"""Every published size is recognised from shapes alone, on weightless models."""

from pathlib import Path

import open_clip
import pytest
import timm
import torch
from hf_vit_suite.conversion.importing import planned_import
from hf_vit_suite.conversion.layout import Evidence
from hf_vit_suite.conversion.layouts import get_layout
from hf_vit_suite.conversion.locating import Located
from hf_vit_suite.conversion.rules import plan_export
from hf_vit_suite.conversion.writing import in_turn
from torch import nn

import hf_vit_suite

TIMM = [
    "vit_tiny_patch16_224",
    "vit_small_patch32_384",
    "vit_base_patch8_224",
    "vit_base_patch16_384",
    "vit_large_patch14_224",
    "vit_huge_patch14_224",
    "vit_giant_patch14_224",
    "vit_gigantic_patch14_224",
    "deit_base_distilled_patch16_384",
    "deit3_medium_patch16_224",
    "deit3_huge_patch14_224",
    "vit_small_patch14_dinov2",
    "vit_giant_patch14_dinov2",
    "vit_giant_patch14_reg4_dinov2",
    "vit_large_patch14_clip_336",
]
# Ours by preset, against timm's of the same size.
PRESETS = {
    "deit": ["deit_tiny_patch16_224", "deit_small_distilled_patch16_224", "deit_base_patch16_384"],
    "mae": ["mae_vit_base", "mae_vit_large", "mae_vit_huge"],
    "dino": ["dino_vits8", "dino_vits16", "dino_vitb8", "dino_vitb16"],
    "dinov2": [f"dinov2_vit{size}14{ending}" for size in "sblg" for ending in ("", "_reg")],
}
CLIP = ["ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-g-14", "ViT-bigG-14", "ViT-B-16-plus-240"]


def recognised(layout: str, model: nn.Module, **evidence):
    """Our configuration and the number of our numbers, for a reference's model without weights."""
    described = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in described.items()}
    known = Evidence(shapes=shapes, **evidence)
    form = get_layout(layout).form_of(known)
    config = form.config(known)
    _, planned = planned_import(form, config, described, Located(Path(layout), {}, None, ""))
    return config, sum(tensor.numel() for tensor in planned.values())


def size_of(model: nn.Module) -> int:
    """Numbers in a model."""
    return sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_model_is_recognised_with_its_heads_and_patch(name: str):
    with torch.device("meta"):
        model = timm.create_model(name)
    config, numbers = recognised("timm", model, kind="safetensors", name=name)
    assert config.num_attention_heads == model.blocks[0].attn.num_heads
    assert config.patch_size == model.patch_embed.patch_size[0]
    assert config.grid_height_width == model.patch_embed.grid_size
    without_position = model.embed_dim if getattr(model, "no_embed_class", False) else 0
    assert numbers == size_of(model) + without_position


@pytest.mark.parametrize(("layout", "preset"), [(layout, name) for layout in PRESETS for name in PRESETS[layout]])
def test_what_a_preset_is_written_as_is_recognised_as_that_preset(layout: str, preset: str):
    expected = hf_vit_suite.preset_config(preset)
    if layout == "dino":
        expected = expected.encoder_config()
    candidates = [form for form in get_layout(layout).forms if form.model.config_class is type(expected)]
    form = next(form for form in candidates if form.holds(expected) and form.head_root is None)
    with torch.device("meta"):
        ours = form.model(expected).state_dict()
    theirs = dict(exported(form, expected, ours))
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    found = get_layout(layout).form_of(evidence := Evidence(shapes=shapes, root=form.root, name=preset))
    assert found is form
    assert architecture(found.config(evidence)) == architecture(expected)


def exported(form, config, ours):
    """The reference's tensors on the meta device."""
    return in_turn(plan_export(form.rules(config), ours).steps, ours.__getitem__, None)


def architecture(config) -> dict:
    """A configuration without what weights can't tell."""
    fields = config.to_dict()
    for name in ("_name_or_path", "id2label", "label2id", "layer_scale_init_value", "initializer_range"):
        fields.pop(name, None)
    return fields


@pytest.mark.parametrize("name", CLIP)
def test_an_open_clip_model_is_recognised_with_the_heads_of_both_towers(name: str):
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(name))
    config, numbers = recognised("open-clip", model, kind="safetensors", name=name)
    assert config.vision_config.num_attention_heads == model.visual.transformer.resblocks[0].attn.num_heads
    assert config.text_config.num_attention_heads == model.transformer.resblocks[0].attn.num_heads
    assert numbers == size_of(model)
    assert config.vision_config.hidden_act == "gelu"
    assert config.text_config.eos_token_id == 49407
