"""Configurations: what they refuse, what survives a file, and what follows from fields that change."""

import json

import pytest
import torch
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION, TINY_DINO, TINY_MAE, TINY_VIT
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPModel,
    SuiteDINOConfig,
    SuiteDINOForPreTraining,
    SuiteMAEConfig,
    SuiteViTBackbone,
    SuiteViTConfig,
    SuiteViTForImageClassification,
    SuiteViTModel,
)


def clip_config() -> SuiteCLIPConfig:
    """A tiny CLIP's."""
    return SuiteCLIPConfig(vision_config=dict(TINY_CLIP_VISION), text_config=dict(TINY_CLIP_TEXT))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hidden_size": 100, "num_attention_heads": 3},
            "hidden_size must be a multiple of num_attention_heads, got 100",
        ),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
        ({"image_size": 225}, "image_size must be a multiple of patch_size 16, got 225 x 225"),
        ({"image_size": (224, 230)}, "got 224 x 230"),
        ({"image_size": 8}, "image_size must be a multiple of patch_size 16, got 8 x 8"),
        ({"image_size": (224,)}, "image_size"),
        ({"image_size": (224, 224, 3)}, "image_size"),
        ({"num_channels": 0}, "num_channels must be at least 1, got 0"),
        ({"intermediate_size": 0}, "intermediate_size must be at least 1, got 0"),
        ({"hidden_dropout_prob": -0.1}, "hidden_dropout_prob must be at least 0 and below 1, got -0.1"),
        (
            {"attention_probs_dropout_prob": 1.5},
            "attention_probs_dropout_prob must be at least 0 and below 1, got 1.5",
        ),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be at least 0 and below 1, got 1.0"),
        ({"num_register_tokens": -1}, "num_register_tokens must not be negative, got -1"),
        ({"mlp_type": "relu"}, "mlp_type must be one of gelu, swiglu, got 'relu'"),
        ({"pooling": "max"}, "pooling must be one of cls, mean, got 'max'"),
        ({"position_embedding_type": "rope"}, "position_embedding_type must be one of learned, sincos, got 'rope'"),
        ({"hidden_act": "nothing"}, "hidden_act must be an activation of transformers, got 'nothing'"),
        (
            {"use_distillation_token": True, "pooling": "mean"},
            "use_distillation_token needs pooling='cls', got 'mean'",
        ),
        (
            {"hidden_size": 30, "num_attention_heads": 3, "position_embedding_type": "sincos"},
            "sincos positions need a hidden_size that is a multiple of 4, got 30",
        ),
        ({"out_features": ["stage99"]}, "stage99"),
        ({"representation_size": 0}, "representation_size must be at least 1, got 0"),
        ({"classifier_layers": 13}, "classifier_layers must be from 1 to num_hidden_layers 12, got 13"),
        ({"classifier_patch_mean": True, "pooling": "mean"}, "need pooling='cls' and one classifier"),
    ],
)
def test_bad_value_is_refused_with_field_value_and_remedy(fields: dict, message: str):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SuiteViTConfig(**fields)


@pytest.mark.parametrize("fields", [{"pooling": "mean"}, {"classifier_layers": 4, "classifier_patch_mean": True}])
def test_what_the_classifier_reads_survives_a_file(fields: dict, tmp_path):
    SuiteViTConfig(**fields).save_pretrained(tmp_path)
    reopened = SuiteViTConfig.from_pretrained(tmp_path)
    assert {name: getattr(reopened, name) for name in fields} == fields


def test_every_field_survives_a_file(tmp_path):
    fields = {
        "hidden_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "mlp_type": "swiglu",
        "hidden_act": "relu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.2,
        "drop_path_rate": 0.3,
        "layer_scale_init_value": 1e-5,
        "layer_norm_eps": 1e-5,
        "initializer_range": 0.03,
        "qkv_bias": False,
        "image_size": [64, 96],
        "patch_size": 8,
        "num_channels": 1,
        "use_distillation_token": True,
        "num_register_tokens": 3,
        "use_mask_token": True,
        "use_patch_bias": False,
        "use_pre_norm": True,
        "position_embedding_type": "sincos",
        "position_interpolation_antialias": True,
        "position_interpolation_offset": 0.1,
        "representation_size": 24,
        "reshape_hidden_states": False,
        "apply_layernorm": False,
    }
    own = set(SuiteViTConfig().vit_fields())
    excluded = {"pooling", "classifier_layers", "classifier_patch_mean"}  # by a distillation token; they have a test
    assert own == {*fields, *excluded}
    config = SuiteViTConfig(**fields, out_features=["stage1", "stage3"], id2label={0: "cat", 1: "dog", 2: "owl"})
    config.save_pretrained(tmp_path)
    reopened = SuiteViTConfig.from_pretrained(tmp_path)
    default = SuiteViTConfig()
    for name, value in fields.items():
        assert value != getattr(default, name), name
        assert getattr(reopened, name) == value, name
    assert reopened.to_diff_dict() == config.to_diff_dict()
    assert reopened.out_features == ["stage1", "stage3"]
    assert reopened.out_indices == [1, 3]
    assert reopened.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert reopened.image_height_width == (64, 96)
    assert reopened.grid_height_width == (8, 12)


def test_distillation_and_register_tokens_count_as_prefix():
    assert SuiteViTConfig().num_prefix_tokens == 1
    assert SuiteViTConfig(use_distillation_token=True, num_register_tokens=4).num_prefix_tokens == 6


def test_stages_follow_the_depth_until_a_person_chooses(tmp_path):
    config = SuiteViTConfig()
    for depth in (2, 15):
        config.num_hidden_layers = depth
        assert (config.out_features, config.out_indices) == ([f"stage{depth}"], [depth])
        assert config.stage_names == ["stem", *(f"stage{number}" for number in range(1, depth + 1))]
        config.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "config.json").read_text())
        assert [saved.get(name) for name in ("stage_names", "out_features", "out_indices")] == [None] * 3
        reopened = SuiteViTConfig.from_pretrained(tmp_path, num_hidden_layers=4)
        assert (reopened.out_features, reopened.out_indices) == (["stage4"], [4])
    config.out_indices = [1, -1]
    assert config.out_features == ["stage1", "stage15"]
    config.num_hidden_layers = 4
    assert config.out_features == ["stage1", "stage4"]
    config.out_features = ["stage3"]
    config.save_pretrained(tmp_path)
    reopened = SuiteViTConfig.from_pretrained(tmp_path)
    assert (reopened.out_features, reopened.out_indices) == (["stage3"], [3])
    reopened.num_hidden_layers = 2
    with pytest.raises(ValueError, match="stage3"):
        SuiteViTModel(reopened)


def test_backbone_returns_the_last_stage_of_a_depth_that_changed():
    config = SuiteViTConfig(**TINY_VIT)
    config.num_hidden_layers = 2
    backbone = SuiteViTBackbone(config).eval()
    assert (backbone.out_features, backbone.channels) == (["stage2"], [32])
    pixels = torch.randn(1, 3, 32, 32)
    (last,) = backbone(pixels).feature_maps
    backbone.out_indices = [0, 2]
    torch.testing.assert_close(backbone(pixels).feature_maps[-1], last)


@pytest.mark.parametrize(
    ("config", "field", "value", "message"),
    [
        (SuiteViTConfig(**TINY_VIT), "patch_size", 5, "image_size must be a multiple of patch_size 5, got 32 x 32"),
        (SuiteViTConfig(**TINY_VIT), "image_size", 36, "image_size must be a multiple of patch_size 8, got 36 x 36"),
        (SuiteViTConfig(**TINY_VIT), "hidden_size", 33, "hidden_size must be a multiple of num_attention_heads"),
        (SuiteViTConfig(**TINY_VIT), "pooling", "max", "pooling must be one of cls, mean, got 'max'"),
        (SuiteMAEConfig(**TINY_MAE), "decoder_hidden_size", 15, "decoder_hidden_size must be a multiple"),
        (SuiteDINOConfig(**TINY_DINO), "koleo_weight", -1.0, "koleo_weight must not be negative, got -1.0"),
        (clip_config(), "loss_type", "triplet", "loss_type must be one of softmax, sigmoid, got 'triplet'"),
        (clip_config().vision_config, "patch_size", 7, "image_size must be a multiple of patch_size 7"),
        (clip_config().text_config, "vocab_size", 0, "vocab_size must be at least 1, got 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_bad_value_set_after_construction_is_refused_by_the_model_and_on_saving(
    config, field, value, message, tmp_path
):
    setattr(config, field, value)
    with pytest.raises(ValueError, match=message):
        config.save_pretrained(tmp_path)
    auto = AutoModelForPreTraining if isinstance(config, (SuiteMAEConfig, SuiteDINOConfig)) else AutoModel
    with pytest.raises(ValueError, match=message):
        auto.from_config(config)


@pytest.mark.parametrize(
    "fields", [{"image_size": 64}, {"patch_size": 4}, {"hidden_size": 48}, {"num_labels": 5}], ids=str
)
def test_size_set_after_construction_is_that_of_the_saved_model(fields: dict, tmp_path):
    config = SuiteViTConfig(**TINY_VIT)
    for name, value in fields.items():
        setattr(config, name, value)
    SuiteViTForImageClassification(config).save_pretrained(tmp_path)
    model, loading = SuiteViTForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    expected = SuiteViTForImageClassification(SuiteViTConfig(**{**TINY_VIT, **fields}))
    assert {name: weight.shape for name, weight in model.state_dict().items()} == {
        name: weight.shape for name, weight in expected.state_dict().items()
    }


def test_projection_and_loss_of_clip_follow_what_is_set_after_construction(tmp_path):
    config = clip_config()
    config.projection_dim, config.loss_type = 24, "sigmoid"
    model = SuiteCLIPModel(config)
    assert model.visual_projection.out_features == model.text_projection.out_features == 24
    assert model.logit_scale.exp().item() == pytest.approx(10, rel=1e-3)  # SigLIP's start, CLIP's is 14.3
    model.save_pretrained(tmp_path)
    reopened = SuiteCLIPConfig.from_pretrained(tmp_path)
    assert (
        reopened.projection_dim == reopened.vision_config.projection_dim == reopened.text_config.projection_dim == 24
    )
    config.vision_config.projection_dim = 16
    with pytest.raises(ValueError, match="projection_dim must be the same in both towers, got 16 for images and 24"):
        SuiteCLIPModel(config)


def test_default_stage_of_a_file_with_stage_names_follows_the_depth(tmp_path):
    """As transformers' backbones write their configs, and the suite once did."""
    saved = {
        "model_type": "suite_vit", **TINY_VIT, "stage_names": ["stem", "stage1", "stage2", "stage3"],
        "out_features": ["stage3"], "out_indices": [3],
    }  # fmt: skip
    for depth in (2, 3, 4):
        (tmp_path / "config.json").write_text(json.dumps({**saved, "num_hidden_layers": depth}))
        config = AutoConfig.from_pretrained(tmp_path)
        assert (config.out_features, config.out_indices) == ([f"stage{depth}"], [depth])
    (tmp_path / "config.json").write_text(json.dumps({**saved, "out_features": ["stage1"], "out_indices": [1]}))
    assert AutoConfig.from_pretrained(tmp_path).out_features == ["stage1"]


def test_mask_token_follows_the_weight_of_the_patch_loss(tmp_path):
    config = SuiteDINOConfig(**TINY_DINO)
    assert SuiteDINOForPreTraining(config).student.embeddings.mask_token is None
    config.patch_loss_weight = 0.5
    model = SuiteDINOForPreTraining(config)
    assert model.student.embeddings.mask_token is not None
    assert config.encoder_config().use_mask_token
    model.save_pretrained(tmp_path)
    reopened = SuiteDINOForPreTraining.from_pretrained(tmp_path, patch_loss_weight=0.0)
    assert reopened.student.embeddings.mask_token is None


def test_attentions_can_be_asked_for_under_sdpa_in_a_config_that_is_saved(tmp_path):
    config = SuiteViTConfig(output_attentions=True, attn_implementation="sdpa")
    config.save_pretrained(tmp_path)
    assert SuiteViTConfig.from_pretrained(tmp_path, attn_implementation="sdpa").output_attentions
