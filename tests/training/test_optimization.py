"""Weight decay and layer-wise learning rates."""

import pytest
import torch
from references_of_training import tiny_classifier
from transformers import ViTConfig, ViTForImageClassification

from hf_vit_suite import SuiteViTForImageClassification, preset_config
from hf_vit_suite.training.trainer import decayed_parameter_names, layer_decay_groups


def test_tokens_and_positions_decay_in_pretraining_alone_and_norms_and_biases_never():
    model = tiny_classifier(
        use_distillation_token=True, num_register_tokens=2, use_mask_token=True, layer_scale_init_value=0.1
    )
    decayed = decayed_parameter_names(model, with_tokens=False)
    kept = {name for name, _ in model.named_parameters()} - decayed
    assert all(name.endswith(".weight") and "norm" not in name for name in decayed)
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "vit.embeddings.mask_token"} <= kept
    assert all(
        name.endswith((".bias", ".gamma", "_token", "_tokens", "_embeddings")) or "norm" in name for name in kept
    )
    tokens = {name for name in kept if name.endswith(("_token", "_tokens", "_embeddings"))}
    assert decayed_parameter_names(model, with_tokens=True) == decayed | tokens
    # timm's rule, which the code of MAE takes and that of DINO repeats.
    assert all(weight.ndim == 1 for name, weight in model.named_parameters() if name in kept - tokens)


def test_rates_by_layer_are_those_of_mae_and_beit():
    # facebookresearch/mae, util/lr_decay.py: embeddings are layer 0, block i is i + 1, norm and head are depth + 1,
    # and the rate is decay^(depth + 1 - layer). (timm counts the norm as a layer of its own.)
    model = SuiteViTForImageClassification(preset_config("deit_tiny_distilled_patch16_224", num_labels=10))
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = layer_decay_groups(model, [{"params": list(model.parameters())}], learning_rate=2.0, decay=0.75)
    found = {names[id(weight)]: group["lr"] / 2.0 for group in groups for weight in group["params"]}
    assert len(found) == len(names)
    for name, rate in found.items():
        layer = 13
        if name.startswith("vit.embeddings."):
            layer = 0
        elif name.startswith("vit.encoder.blocks."):
            layer = int(name.split(".")[3]) + 1
        assert rate == pytest.approx(0.75 ** (13 - layer)), name


def test_rates_of_transformers_own_models_follow_their_layers_too():
    model = ViTForImageClassification(ViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2))
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = layer_decay_groups(model, [{"params": list(model.parameters())}], learning_rate=1.0, decay=0.5)
    found = {names[id(weight)]: group["lr"] for group in groups for weight in group["params"]}
    assert found["classifier.weight"] == found["vit.layernorm.weight"] == 1
    assert [found[f"vit.layers.{layer}.mlp.fc1.weight"] for layer in range(3)] == [0.125, 0.25, 0.5]
    assert found["vit.embeddings.cls_token"] == 0.0625


def test_decay_out_of_range_and_models_without_blocks_are_refused():
    model = tiny_classifier()
    with pytest.raises(ValueError, match=r"layer_decay must be above 0 and at most 1, got 1\.5"):
        layer_decay_groups(model, [], 1.0, 1.5)
    with pytest.raises(ValueError, match="needs numbered blocks, and Linear has none"):
        layer_decay_groups(torch.nn.Linear(2, 2), [], 1.0, 0.5)
