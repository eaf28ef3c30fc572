"""Backbones as detectors and decoders use them: any size, maps or tokens, normalised or not."""

import pytest
import torch
from every_family import assert_close
from families import FAMILIES, TINY_VIT
from references import assert_equals_reference, from_transformers_dinov2, randomise
from torch import nn
from transformers import (
    AutoBackbone,
    DetrConfig,
    DetrForObjectDetection,
    Dinov2Backbone,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    PreTrainedModel,
)

from hf_vit_suite import SuiteViTBackbone, SuiteViTConfig

OF_IMAGES = [family for family in FAMILIES if "AutoBackbone" in family.auto_classes]


def dinov2_pair(**fields) -> tuple[PreTrainedModel, PreTrainedModel]:
    """transformers' backbone and ours, with the same random weights and fields."""
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "image_size": 56, "patch_size": 14}
    reference = randomise(Dinov2Backbone(Dinov2Config(**sizes, **fields)))
    config = SuiteViTConfig(**sizes, **fields, intermediate_size=192, layer_scale_init_value=1.0, use_mask_token=True)
    ours = SuiteViTBackbone(config).eval()
    ours.vit.load_state_dict(from_transformers_dinov2(reference.state_dict()))
    return reference, ours


@pytest.mark.parametrize("reshape", [True, False], ids=["maps", "tokens"])
@pytest.mark.parametrize("normalise", [True, False], ids=["normalised", "plain"])
@torch.no_grad()
def test_backbone_equals_transformers_dinov2_whatever_it_returns(reshape: bool, normalise: bool):
    fields = {"reshape_hidden_states": reshape, "apply_layernorm": normalise, "out_indices": [0, 2, 3]}
    reference, ours = dinov2_pair(**fields)
    for size in ((56, 56), (61, 45)):  # 45 = 3 * 14 + 3
        pixels = torch.randn(2, 3, *size)
        expected, found = reference(pixels), ours(pixels)
        for map_of_theirs, map_of_ours in zip(expected.feature_maps, found.feature_maps, strict=True):
            assert_equals_reference(map_of_ours, map_of_theirs)


@pytest.mark.parametrize("family", OF_IMAGES, ids=lambda family: family.name)
@torch.no_grad()
def test_maps_are_the_encoders_tokens_in_rows_and_columns(family):
    config = family.config()
    config.out_features = ["stem", "stage2", "stage3"]
    backbone = AutoBackbone.from_config(config).eval()
    pixels = torch.randn(2, 3, 40, 24)
    states = backbone.base_model(pixels, output_hidden_states=True).hidden_states
    maps = backbone(pixels).feature_maps
    assert [tuple(one.shape) for one in maps] == [(2, 32, 5, 3)] * 3
    for one, state in zip(maps, (states[0], states[2], states[3]), strict=True):
        tokens = backbone.base_model.norm(state)[:, config.num_prefix_tokens :]
        assert_close(one.flatten(2).transpose(1, 2), tokens)
    backbone.out_features = ["stage1"]
    assert backbone.channels == [32]
    assert len(backbone(pixels).feature_maps) == 1


@torch.no_grad()
def test_backbone_whose_last_blocks_were_cut_off_returns_what_is_left(tmp_path):
    backbone = SuiteViTBackbone(SuiteViTConfig(**TINY_VIT)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    expected = backbone(pixels, output_hidden_states=True).hidden_states[1]
    del backbone.vit.encoder.blocks[1:]
    with pytest.raises(ValueError, match=r"the model has 1 blocks: set config.num_hidden_layers to that"):
        backbone(pixels)
    backbone.config.num_hidden_layers = 1
    (found,) = backbone(pixels).feature_maps
    assert_close(found.flatten(2).transpose(1, 2), backbone.vit.norm(expected)[:, 1:])
    backbone.save_pretrained(tmp_path)
    reopened = AutoBackbone.from_pretrained(tmp_path).eval()
    assert reopened.channels == backbone.channels == [32]
    assert_close(reopened(pixels).feature_maps, [found])


def test_depth_estimator_of_transformers_reads_tokens():
    config = SuiteViTConfig(
        **TINY_VIT, reshape_hidden_states=False, apply_layernorm=False, out_features=["stage1", "stage2", "stage3"]
    )
    sizes = {"neck_hidden_sizes": [16, 32, 32], "fusion_hidden_size": 16, "reassemble_factors": [2, 1, 0.5]}
    model = DPTForDepthEstimation(DPTConfig(backbone_config=config, **sizes, head_in_index=-1))
    depth = model(torch.randn(2, 3, 32, 32)).predicted_depth
    assert depth.shape[0] == 2
    depth.sum().backward()
    assert model.backbone.vit.embeddings.cls_token.grad.abs().sum() > 0


def test_detector_of_transformers_takes_images_of_any_size():
    config = DetrConfig(
        backbone_config=SuiteViTConfig(**TINY_VIT), use_timm_backbone=False, use_pretrained_backbone=False, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, num_queries=3,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_labels=2,
    )  # fmt: skip
    model = DetrForObjectDetection(config).train()
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    loss = model(torch.randn(2, 3, 37, 51), pixel_mask=torch.ones(2, 37, 51), labels=labels).loss
    loss.backward()
    (projection,) = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.stride == (8, 8)]
    assert projection.weight.grad.abs().sum() > 0
