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
    ],
)
def test_bad_value_is_refused_with_field_value_and_remedy(fields: dict, message: str):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SuiteViTConfig(**fields)


def test_every_field_survives_a_file(tmp_path):
    config = SuiteViTConfig(
        hidden_size=48,
        num_attention_heads=3,
        image_size=(64, 96),
        num_register_tokens=3,
        layer_scale_init_value=1e-5,
        mlp_type="swiglu",
        pooling="mean",
        position_interpolation_offset=0.1,
        out_features=["stage1", "stage3"],
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )
    config.save_pretrained(tmp_path)
    reopened = SuiteViTConfig.from_pretrained(tmp_path)
    assert reopened.to_diff_dict() == config.to_diff_dict()
    assert reopened.out_indices == [1, 3]
    assert reopened.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert reopened.image_height_width == (64, 96)


def test_distillation_and_register_tokens_count_as_prefix():
    assert SuiteViTConfig().num_prefix_tokens == 1
    assert SuiteViTConfig(use_distillation_token=True, num_register_tokens=4).num_prefix_tokens == 6
