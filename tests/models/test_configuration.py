"""SuiteViTConfig: what it refuses, and what survives a file."""

import pytest

from hf_vit_suite import SuiteViTConfig


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


def test_attentions_can_be_asked_for_under_sdpa_in_a_config_that_is_saved(tmp_path):
    config = SuiteViTConfig(output_attentions=True, attn_implementation="sdpa")
    config.save_pretrained(tmp_path)
    assert SuiteViTConfig.from_pretrained(tmp_path, attn_implementation="sdpa").output_attentions
