"""The ViT classes against timm and transformers: same weights, same inputs, float32, 1e-5 relative.

"Relative" is the largest difference over the reference's largest value (`references.relative_difference`).
"""

import pytest
import timm
import torch
import torch.nn.functional as F
from references import (
    assert_equals_reference,
    from_timm,
    from_transformers_dinov2,
    from_transformers_vit,
    gradients,
    randomise,
)
from transformers import (
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTForImageClassification,
)

from hf_vit_suite import SuiteViTBackbone, SuiteViTForImageClassification, SuiteViTModel, preset_config

SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}


def classifier_from_timm(name: str, depth: int = 12, **overrides) -> tuple[torch.nn.Module, torch.nn.Module]:
    """timm's model and ours with its weights; `overrides` change our config."""
    reference = randomise(timm.create_model(name, num_classes=10, depth=depth))
    ours = SuiteViTForImageClassification(preset_config(name, num_labels=10, num_hidden_layers=depth, **overrides))
    ours.load_state_dict(from_timm(reference.state_dict()))
    return reference, ours.eval()


def pictures(*size: int, batch: int = 2) -> torch.Tensor:
    """Random pixels `[batch, 3, height, width]`."""
    return torch.randn(batch, 3, *size)


@pytest.mark.parametrize("size", SIZES)
def test_classifier_equals_timm_in_logits_loss_and_gradients(size: str):
    reference, ours = classifier_from_timm(f"vit_{size}_patch16_224")
    pixels, labels = pictures(224, 224), torch.tensor([3, 7])
    expected = reference(pixels)
    found = ours(pixels, labels=labels)
    assert_equals_reference(found.logits, expected)
    loss = F.cross_entropy(expected, labels)
    assert_equals_reference(found.loss, loss)
    loss.backward()
    found.loss.backward()
    expected_gradients, found_gradients = from_timm(gradients(reference)), gradients(ours)
    assert expected_gradients.keys() == found_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


@pytest.mark.parametrize("size", SIZES)
def test_classifier_equals_transformers_in_logits_loss_and_gradients(size: str):
    hidden, heads = SIZES[size]
    config = ViTConfig(
        hidden_size=hidden,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        layer_norm_eps=1e-6,
        num_labels=10,
        problem_type="single_label_classification",
    )
    reference = randomise(ViTForImageClassification(config))
    ours = SuiteViTForImageClassification(preset_config(f"vit_{size}_patch16_224", num_labels=10)).eval()
    ours.load_state_dict(from_transformers_vit(reference.state_dict()))
    pixels, labels = pictures(224, 224), torch.tensor([3, 7])
    expected, found = reference(pixels, labels=labels), ours(pixels, labels=labels)
    assert_equals_reference(found.logits, expected.logits)
    assert_equals_reference(found.loss, expected.loss)
    expected.loss.backward()
    found.loss.backward()
    expected_gradients, found_gradients = from_transformers_vit(gradients(reference)), gradients(ours)
    assert expected_gradients.keys() == found_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


def test_three_optimiser_steps_give_the_same_weights_as_timm():
    reference, ours = classifier_from_timm("vit_tiny_patch16_224")
    optimisers = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (reference, ours)]
    for step in range(3):
        pixels, labels = pictures(224, 224), torch.tensor([step, step + 1])
        for loss, optimiser in zip(
            (F.cross_entropy(reference(pixels), labels), ours(pixels, labels=labels).loss), optimisers, strict=True
        ):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    expected = from_timm(reference.state_dict())
    for name, weight in ours.state_dict().items():
        assert_equals_reference(weight, expected[name], name=name)


def test_three_adamw_steps_give_the_same_weights_as_timm():
    # In float64: a key's bias has a gradient of zero but for rounding, which AdamW, in float32, scales up to whole
    # steps of random sign.
    models = [model.double() for model in classifier_from_timm("vit_tiny_patch16_224", depth=4)]
    before = {name: weight.clone() for name, weight in models[1].state_dict().items()}
    optimisers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in models]
    for step in range(3):
        pixels, labels = pictures(224, 224).double(), torch.tensor([step, step + 1])
        losses = F.cross_entropy(models[0](pixels), labels), models[1](pixels, labels=labels).loss
        for loss, optimiser in zip(losses, optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    expected = from_timm(models[0].state_dict())
    for name, weight in models[1].state_dict().items():
        assert_equals_reference(weight, expected[name], name=name)
        assert (weight - before[name]).abs().max() > 1e-3, name  # so that standing still does not pass


def test_distilled_deit_equals_timm_in_both_heads_and_gradients():
    reference, ours = classifier_from_timm("deit_tiny_distilled_patch16_224")
    pixels = pictures(224, 224)
    found = ours(pixels)
    with torch.no_grad():
        assert_equals_reference(found.logits, reference(pixels))
    reference.set_distilled_training(True)
    reference.train()
    class_logits, distillation_logits = reference(pixels)
    assert_equals_reference(found.class_logits, class_logits)
    assert_equals_reference(found.distillation_logits, distillation_logits)
    for logits, distilled in ((class_logits, distillation_logits), (found.class_logits, found.distillation_logits)):
        (logits.square().sum() + distilled.pow(3).sum()).backward()
    found_gradients = gradients(ours)
    for name, gradient in from_timm(gradients(reference)).items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


def test_mean_pooling_equals_timm():
    reference = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=10, global_pool="avg"))
    config = preset_config("vit_tiny_patch16_224", num_labels=10, pooling="mean")
    ours = SuiteViTForImageClassification(config).eval()
    ours.load_state_dict(from_timm(reference.state_dict()))
    pixels = pictures(224, 224)
    found, expected = ours(pixels).logits, reference(pixels)
    assert_equals_reference(found, expected)
    found.pow(3).sum().backward()
    expected.pow(3).sum().backward()
    found_gradients = gradients(ours)
    for name, gradient in from_timm(gradients(reference)).items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


@torch.no_grad()
def test_mean_pooling_with_registers_and_without_qkv_bias_equals_timm():
    options = {"depth": 2, "reg_tokens": 4, "no_embed_class": True, "global_pool": "avg", "qkv_bias": False}
    reference = randomise(timm.create_model("vit_tiny_patch16_224", num_classes=10, **options))
    fields = {"num_hidden_layers": 2, "num_register_tokens": 4, "pooling": "mean", "qkv_bias": False}
    config = preset_config("vit_tiny_patch16_224", num_labels=10, **fields)
    ours = SuiteViTForImageClassification(config).eval()
    weights = from_timm(reference.state_dict())
    # timm's class token has no position of its own here; ours is then zero.
    weights["vit.embeddings.position_embeddings"] = F.pad(weights["vit.embeddings.position_embeddings"], (0, 0, 1, 0))
    ours.load_state_dict(weights)
    pixels = pictures(224, 224)
    assert_equals_reference(ours(pixels).logits, reference(pixels))


@torch.no_grad()
@pytest.mark.parametrize("size", [(98, 154), (224, 224)])
def test_dinov2_small_with_registers_equals_transformers(size: tuple[int, int]):
    config = Dinov2WithRegistersConfig(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    reference = randomise(Dinov2WithRegistersModel(config))
    ours = SuiteViTModel(preset_config("dinov2_vits14_reg")).eval()
    ours.load_state_dict(from_transformers_dinov2(reference.state_dict()))
    pixels = pictures(*size)
    mask = torch.rand(2, size[0] // 14 * (size[1] // 14)) < 0.4
    for options in ({}, {"bool_masked_pos": mask}):
        expected = reference(pixels, output_hidden_states=True, **options)
        found = ours(pixels, output_hidden_states=True, **options)
        assert_equals_reference(found.last_hidden_state, expected.last_hidden_state)
        assert_equals_reference(found.pooler_output, expected.pooler_output)
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert_equals_reference(one, other)


def test_dinov2_with_registers_equals_transformers_in_gradients_at_the_native_grid():
    sizes = {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 4, "image_size": 112, "patch_size": 14}
    reference = randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)))
    ours = SuiteViTModel(preset_config("dinov2_vits14_reg", num_hidden_layers=4, image_size=112)).eval()
    ours.load_state_dict(from_transformers_dinov2(reference.state_dict()))
    pixels, mask = pictures(112, 112), torch.rand(2, 64) < 0.4
    for model in (reference, ours):
        model(pixels, bool_masked_pos=mask).last_hidden_state.pow(3).sum().backward()
    expected_gradients, found_gradients = from_transformers_dinov2(gradients(reference)), gradients(ours)
    assert expected_gradients.keys() == found_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


def test_swiglu_equals_transformers_dinov2_in_gradients():
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3, "image_size": 112, "patch_size": 14}
    reference = randomise(Dinov2Model(Dinov2Config(**sizes, use_swiglu_ffn=True)))
    ours = SuiteViTModel(preset_config("dinov2_vitg14", **sizes, intermediate_size=128)).eval()
    ours.load_state_dict(from_transformers_dinov2(reference.state_dict()))
    pixels = pictures(112, 112)
    for model in (reference, ours):
        model(pixels).last_hidden_state.pow(3).sum().backward()
    found_gradients = gradients(ours)
    for name, gradient in from_transformers_dinov2(gradients(reference)).items():
        assert_equals_reference(found_gradients[name], gradient, name=name)


@torch.no_grad()
def test_swiglu_and_backbone_equal_transformers_dinov2():
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4, "image_size": 112, "patch_size": 14}
    config = Dinov2Config(**sizes, use_swiglu_ffn=True)
    reference = randomise(Dinov2Model(config))
    swiglu_width = (int(4 * 48 * 2 / 3) + 7) // 8 * 8
    fields = {**sizes, "mlp_type": "swiglu", "intermediate_size": swiglu_width, "position_interpolation_offset": 0.0}
    stages = {"out_features": ["stem", "stage2", "stage4"]}
    weights = from_transformers_dinov2(reference.state_dict())
    ours = SuiteViTModel(preset_config("dinov2_vitg14", **fields)).eval()
    ours.load_state_dict(weights)
    backbone = SuiteViTBackbone(preset_config("dinov2_vitg14", **fields, **stages)).eval()
    backbone.vit.load_state_dict(weights)
    reference_backbone = Dinov2Backbone(Dinov2Config(**sizes, use_swiglu_ffn=True, **stages)).eval()
    reference_backbone.load_state_dict(reference.state_dict())
    for size in ((112, 112), (98, 154)):
        pixels = pictures(*size)
        assert_equals_reference(ours(pixels).last_hidden_state, reference(pixels).last_hidden_state)
        found, expected = backbone(pixels).feature_maps, reference_backbone(pixels).feature_maps
        for one, other in zip(found, expected, strict=True):
            assert_equals_reference(one, other)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_attentions_equal_transformers_eager_ones(backend: str):
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6)
    config._attn_implementation = "eager"
    reference = randomise(ViTForImageClassification(config))
    ours = SuiteViTForImageClassification(preset_config("vit_tiny_patch16_224", num_labels=2)).eval()
    ours.set_attn_implementation(backend)
    ours.load_state_dict(from_transformers_vit(reference.state_dict()))
    pixels = pictures(224, 224)
    expected = reference(pixels, output_attentions=True).attentions
    for found, other in zip(ours(pixels, output_attentions=True).attentions, expected, strict=True):
        assert_equals_reference(found, other)


@torch.no_grad()
@pytest.mark.parametrize("size", [(98, 154), (448, 448)])
def test_resized_positions_equal_transformers_vit(size: tuple[int, int]):
    config = ViTConfig(hidden_size=96, num_attention_heads=3, num_hidden_layers=2, patch_size=14, layer_norm_eps=1e-6)
    config.intermediate_size = 384
    reference = randomise(ViTForImageClassification(config))
    fields = {"hidden_size": 96, "num_hidden_layers": 2, "intermediate_size": 384, "patch_size": 14, "num_labels": 2}
    ours = SuiteViTForImageClassification(preset_config("vit_tiny_patch16_224", **fields)).eval()
    ours.load_state_dict(from_transformers_vit(reference.state_dict()))
    pixels = pictures(*size)
    assert_equals_reference(ours(pixels).logits, reference(pixels, interpolate_pos_encoding=True).logits)


@torch.no_grad()
@pytest.mark.parametrize("size", [(98, 154), (448, 448)])
def test_resized_positions_equal_timm_with_antialias(size: tuple[int, int]):
    options = {"num_classes": 10, "depth": 2, "patch_size": 14, "dynamic_img_size": True}
    reference = randomise(timm.create_model("vit_tiny_patch16_224", **options))
    fields = {"num_hidden_layers": 2, "patch_size": 14, "num_labels": 10, "position_interpolation_antialias": True}
    ours = SuiteViTForImageClassification(preset_config("vit_tiny_patch16_224", **fields)).eval()
    ours.load_state_dict(from_timm(reference.state_dict()))
    pixels = pictures(*size)
    assert_equals_reference(ours(pixels).logits, reference(pixels))


@torch.no_grad()
@pytest.mark.parametrize("size", [(98, 154), (448, 448)])
def test_resized_positions_equal_transformers_dinov2_with_registers(size: tuple[int, int]):
    sizes = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 224, "patch_size": 14}
    reference = randomise(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**sizes)))
    ours = SuiteViTModel(preset_config("dinov2_vits14_reg", **sizes, intermediate_size=192)).eval()
    ours.load_state_dict(from_transformers_dinov2(reference.state_dict()))
    pixels = pictures(*size)
    assert_equals_reference(ours(pixels).last_hidden_state, reference(pixels).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("size", [(98, 154), (448, 448)])
def test_positions_resized_with_offset_equal_those_of_dinos_definition(size: tuple[int, int]):
    # facebookresearch/dinov2 gives the bicubic interpolation a scale of (new + 0.1) / old, and no output size.
    fields = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 192}
    ours = randomise(SuiteViTModel(preset_config("dinov2_vits14", **fields, image_size=224)))
    prefix, patches = ours.embeddings.position_embeddings.split([1, 256], dim=1)
    scale = [(side // 14 + 0.1) / 16 for side in size]
    table = F.interpolate(patches.reshape(1, 16, 16, 48).permute(0, 3, 1, 2), scale_factor=scale, mode="bicubic")
    weights = ours.state_dict()
    weights["embeddings.position_embeddings"] = torch.cat((prefix, table.flatten(2).transpose(1, 2)), dim=1)
    native = SuiteViTModel(preset_config("dinov2_vits14", **fields, image_size=size)).eval()
    native.load_state_dict(weights)
    pixels = pictures(*size)
    assert_equals_reference(ours(pixels).last_hidden_state, native(pixels).last_hidden_state)


@pytest.mark.parametrize("preset", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_computing_only_the_wanted_tokens_changes_neither_result_nor_gradient(preset: str):
    config = preset_config(preset, num_hidden_layers=3)
    pixels = pictures(64, 96)
    results = []
    for number in (None, config.num_prefix_tokens):
        torch.manual_seed(0)
        model = randomise(SuiteViTModel(config))
        tokens = model(pixels, num_output_tokens=number).last_hidden_state
        assert tokens.shape[1] == (number or config.num_prefix_tokens + 24)
        tokens = tokens[:, : config.num_prefix_tokens]
        tokens.square().mul(torch.arange(config.hidden_size)).sum().backward()
        results.append((tokens, gradients(model)))
    (full, full_gradients), (short, short_gradients) = results
    assert_equals_reference(short, full)
    for name, gradient in full_gradients.items():
        assert_equals_reference(short_gradients[name], gradient, name=name)
