"""Attention of the class token, masks of its mass, and rollout."""

import pytest
import torch
from explained import CLASSIFIERS, TINY, rollout_of, transformers_classifier, transformers_clip, watch_weights
from references import assert_equals_reference, from_transformers_vit, randomise
from transformers import ResNetConfig, ResNetModel

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification, SuiteViTModel
from hf_vit_suite.explain import attention_maps, class_token_attention, mass_masks, rollout


def attentions_of(model: torch.nn.Module, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """transformers' eager attentions, in its own way."""
    options = {} if "dinov2" in model.config.model_type else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        return model(pixels, output_attentions=True, **options).attentions


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("layer", [-1, 0])
def test_maps_are_transformers_eager_attentions_at_any_size(name: str, layer: int):
    pixels = torch.randn(2, 3, 24, 48)
    model, prefix = transformers_classifier(name, "eager")
    expected = attentions_of(model, pixels)[layer][:, :, 0, prefix:].unflatten(2, (3, 6))
    observed, _ = transformers_classifier(name, "sdpa")
    assert_equals_reference(class_token_attention(observed, pixels, layer), expected)
    assert_equals_reference(attention_maps(observed, pixels, layer, head=1, resize=False), expected[:, 1])
    assert_equals_reference(attention_maps(observed, pixels, layer, resize=False), expected.mean(dim=1))
    assert attention_maps(observed, pixels, layer).shape == (2, 24, 48)
    assert observed.config._attn_implementation == "sdpa"


def test_clips_maps_are_those_of_its_image_tower():
    pixels, model = torch.randn(2, 3, 24, 48), transformers_clip("eager")
    expected = attentions_of(model.vision_model, pixels)[-1][:, :, 0, 1:].unflatten(2, (3, 6))
    assert_equals_reference(class_token_attention(transformers_clip(), pixels), expected)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flex_attention"])
@pytest.mark.parametrize("prefix", [{}, {"num_register_tokens": 3}, {"use_distillation_token": True}])
def test_our_maps_are_the_class_tokens_row_under_every_backend(prefix: dict, backend: str):
    config = SuiteViTConfig(**TINY, **prefix)
    model, pixels = randomise(SuiteViTModel(config), scale=0.3), torch.randn(2, 3, 16, 40)
    with torch.no_grad():
        attention = model(pixels, output_attentions=True).attentions[1]
    model.set_attn_implementation(backend)
    expected = attention[:, :, 0, config.num_prefix_tokens :].unflatten(2, (2, 5))
    assert_equals_reference(class_token_attention(model, pixels, 1), expected)


def test_maps_are_resized_as_wholes():
    model, pixels = randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(1, 3, 32, 32)
    small, large = (attention_maps(model, pixels, resize=resize) for resize in (False, True))
    torch.testing.assert_close(large.mean(), small.mean(), rtol=1e-5, atol=1e-6)
    assert large[0, 0, 0] == small[0, 0, 0]


@pytest.mark.parametrize("mass", [0.3, 0.6, 1.0])
def test_mask_is_the_smallest_that_holds_the_mass(mass: float):
    model, pixels = randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(2, 3, 32, 32)
    maps = attention_maps(model, pixels, resize=False)
    masks = mass_masks(model, pixels, mass=mass, resize=False)
    assert masks.dtype == torch.bool
    for values, mask in zip(maps, masks, strict=True):
        kept, whole = values[mask], values.sum()
        assert kept.sum() >= (mass - 1e-6) * whole
        assert kept.sum() - kept.min() < mass * whole
        assert mask.all() or kept.min() >= values[~mask].max()
    coarse = mass_masks(model, pixels, mass=mass)
    assert torch.equal(coarse[:, ::8, ::8], masks)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("fusion", "discard_ratio"), [("mean", 0.0), ("max", 0.4), ("min", 0.9)])
def test_rollout_is_the_product_of_all_kept_maps(name: str, fusion: str, discard_ratio: float):
    pixels = torch.randn(2, 3, 24, 48)
    model, prefix = transformers_classifier(name, "eager")
    expected = rollout_of(attentions_of(model, pixels), fusion, discard_ratio)[:, 0, prefix:].view(2, 3, 6)
    observed, _ = transformers_classifier(name)
    found = rollout(observed, pixels, fusion, discard_ratio, resize=False)
    assert_equals_reference(found.double(), expected)


def test_rollout_up_to_a_layer_leaves_the_others_out():
    pixels, (model, _) = torch.randn(2, 3, 32, 32), transformers_classifier("vit", "eager")
    expected = rollout_of(attentions_of(model, pixels)[:2])[:, 0, 1:].view(2, 4, 4)
    assert_equals_reference(rollout(model, pixels, layer=1, resize=False).double(), expected)


def test_rollout_of_a_model_that_pools_patches_is_their_mean():
    reference, _ = transformers_classifier("vit", "eager")
    pixels = torch.randn(2, 3, 32, 32)
    expected = rollout_of(attentions_of(reference, pixels))[:, 1:, 1:].mean(dim=1).view(2, 4, 4)
    fields = {**TINY, "num_labels": 5, "layer_norm_eps": reference.config.layer_norm_eps}
    ours = SuiteViTForImageClassification(SuiteViTConfig(**fields, pooling="mean")).eval()
    ours.load_state_dict(from_transformers_vit(reference.state_dict()))
    assert_equals_reference(rollout(ours, pixels, resize=False).double(), expected)


def test_one_layers_heads_exist_at_a_time(monkeypatch: pytest.MonkeyPatch):
    made = watch_weights(monkeypatch)
    rollout(randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(1, 3, 32, 32))
    assert len(made) == 3


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        (lambda model, pixels: attention_maps(model, pixels, layer=3), "layer must be from -3 to 2, got 3"),
        (lambda model, pixels: attention_maps(model, pixels, head=2), "head must be from 0 to 1, got 2"),
        (lambda model, pixels: attention_maps(model, pixels[..., :30]), "multiples of the patch size 8, got 32 x 30"),
        (lambda model, pixels: rollout(model, pixels, fusion="sum"), "fusion must be one of mean, max, min"),
        (lambda model, pixels: rollout(model, pixels, discard_ratio=1), "discard_ratio must be at least 0 and below"),
        (lambda model, pixels: mass_masks(model, pixels, mass=0), "mass must be above 0 and at most 1, got 0"),
    ],
)
def test_wrong_options_are_refused(explain, message: str):
    with pytest.raises(ValueError, match=message):
        explain(SuiteViTModel(SuiteViTConfig(**TINY)).eval(), torch.zeros(1, 3, 32, 32))


def test_model_without_known_tokens_is_refused():
    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match=r"suite's models and transformers' vit, .* not resnet"):
        class_token_attention(model, torch.zeros(1, 3, 32, 32))
