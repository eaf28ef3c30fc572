"""Relevance and attention times gradient equal a float64 derivation that keeps every map."""

import pytest
import torch
from explained import (
    CLASSIFIERS,
    CLIP_FIELDS,
    TINY,
    maps_and_gradients,
    relevance_of,
    transformers_classifier,
    transformers_clip,
    watch_weights,
)
from references import assert_equals_reference, from_transformers_clip, from_transformers_vit, randomise

from hf_vit_suite import SuiteCLIPConfig, SuiteCLIPModel, SuiteViTConfig, SuiteViTForImageClassification
from hf_vit_suite.explain import attention_gradient, relevance

TARGETS = [3, 1]


def products_of(name: str, pixels: torch.Tensor, targets: list[int]) -> tuple[list[torch.Tensor], int]:
    """Each layer's attention times gradient on transformers' eager model in float64, and its prefix tokens."""
    model, prefix = transformers_classifier(name, "eager")
    model = model.double()
    options = {} if "dinov2" in model.config.model_type else {"interpolate_pos_encoding": True}
    outputs = model(pixels.double(), output_attentions=True, **options)
    scores = outputs.logits.gather(1, torch.tensor(targets).unsqueeze(1))
    return maps_and_gradients(outputs.attentions, scores), prefix


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("first", [0, 1])
def test_relevance_is_the_papers_with_all_maps_kept(name: str, first: int):
    pixels = torch.randn(2, 3, 24, 48)
    products, prefix = products_of(name, pixels, TARGETS)
    expected = relevance_of(products, first)[:, 0, prefix:].view(2, 3, 6)
    model, _ = transformers_classifier(name)
    found = relevance(model.requires_grad_(False), pixels, TARGETS, layer=first, resize=False)
    assert_equals_reference(found.double(), expected)
    assert relevance(model, pixels, TARGETS).shape == (2, 24, 48)


@pytest.mark.parametrize(("layer", "head"), [(None, None), (-1, None), (0, 1)])
def test_attention_gradient_is_the_mean_over_layers_and_heads_or_one(layer: int | None, head: int | None):
    pixels = torch.randn(2, 3, 24, 48)
    products, prefix = products_of("vit", pixels, TARGETS)
    chosen = products if layer is None else [products[layer]]
    rows = torch.stack([product.mean(dim=1) if head is None else product[:, head] for product in chosen]).mean(dim=0)
    model, _ = transformers_classifier("vit")
    found = attention_gradient(model, pixels, TARGETS, layer=layer, head=head, resize=False)
    assert_equals_reference(found.double(), rows[:, 0, prefix:].view(2, 3, 6))


def ours_from_vit(**fields) -> SuiteViTForImageClassification:
    """Our classifier with transformers' weights."""
    reference, _ = transformers_classifier("vit")
    config = SuiteViTConfig(**TINY, num_labels=5, layer_norm_eps=reference.config.layer_norm_eps, **fields)
    ours = SuiteViTForImageClassification(config).eval()
    ours.load_state_dict(from_transformers_vit(reference.state_dict()))
    return ours


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_our_classifier_whose_last_layer_computes_one_token_gives_the_same(backend: str):
    pixels = torch.randn(2, 3, 24, 48)
    products, _ = products_of("vit", pixels, TARGETS)
    ours = ours_from_vit()
    ours.set_attn_implementation(backend)
    expected = relevance_of(products)[:, 0, 1:].view(2, 3, 6)
    assert_equals_reference(relevance(ours, pixels, TARGETS, resize=False).double(), expected)
    last = attention_gradient(ours, pixels, TARGETS, layer=-1, resize=False)
    assert_equals_reference(last.double(), products[-1].mean(dim=1)[:, 0, 1:].view(2, 3, 6))
    assert ours.config._attn_implementation == backend


def test_default_target_is_the_prediction():
    ours, pixels = ours_from_vit(), torch.randn(2, 3, 32, 32)
    predicted = ours(pixels).logits.argmax(dim=-1)
    assert torch.equal(relevance(ours, pixels), relevance(ours, pixels, predicted))
    assert torch.equal(relevance(ours, pixels, 2), relevance(ours, pixels, [2, 2]))
    assert not torch.allclose(relevance(ours, pixels, 2), relevance(ours, pixels, 3), rtol=0.1)


@pytest.mark.parametrize("fields", [{"pooling": "mean"}, {"use_distillation_token": True}])
def test_relevance_starts_from_every_token_that_is_read(fields: dict):
    ours = randomise(SuiteViTForImageClassification(SuiteViTConfig(**TINY, num_labels=5, **fields)), scale=0.3)
    pixels, prefix = torch.randn(2, 3, 24, 48), ours.config.num_prefix_tokens
    found = relevance(ours, pixels, 1, resize=False)
    outputs = ours.double()(pixels.double(), output_attentions=True)
    kept = relevance_of(maps_and_gradients(outputs.attentions, outputs.logits[:, 1]))
    read = kept[:, prefix:] if "pooling" in fields else kept[:, :2]
    assert_equals_reference(found.double(), read.mean(dim=1)[:, prefix:].view(2, 3, 6))


@pytest.mark.parametrize("kind", ["ours", "transformers"])
def test_relevance_of_a_text_is_the_papers(kind: str):
    pixels, input_ids = torch.randn(2, 3, 32, 32), torch.tensor([[58, 3, 4, 59], [58, 7, 59, 59]])
    reference = transformers_clip("eager").double()
    outputs = reference(input_ids=input_ids, pixel_values=pixels.double(), output_attentions=True)
    cosines = (outputs.image_embeds * outputs.text_embeds).sum(dim=1)
    expected = relevance_of(maps_and_gradients(outputs.vision_model_output.attentions, cosines))[:, 0, 1:]
    model = transformers_clip()
    if kind == "ours":
        state = model.state_dict()
        model = SuiteCLIPModel(SuiteCLIPConfig(**CLIP_FIELDS)).eval()
        model.load_state_dict(from_transformers_clip(state))
    found = relevance(model.requires_grad_(False), pixels, input_ids=input_ids, resize=False)
    assert_equals_reference(found.double(), expected.view(2, 4, 4))


def test_one_layers_heads_exist_at_a_time(monkeypatch: pytest.MonkeyPatch):
    made = watch_weights(monkeypatch)
    relevance(ours_from_vit(), torch.randn(1, 3, 32, 32))
    assert len(made) == 3


def test_bfloat16_and_a_batch_give_nearly_the_same():
    ours, pixels = ours_from_vit(), torch.randn(3, 3, 32, 32)
    whole = relevance(ours, pixels, 1)
    one = torch.cat([relevance(ours, image.unsqueeze(0), 1) for image in pixels])
    assert_equals_reference(one, whole)
    with torch.autocast("cpu", torch.bfloat16):
        assert_equals_reference(relevance(ours, pixels, 1), whole, tolerance=0.1)


@pytest.mark.parametrize(
    ("explain", "message"),
    [
        (lambda ours, pixels: relevance(ours, pixels, 5), r"target must be from 0 to 4, got \[5\]"),
        (lambda ours, pixels: relevance(ours, pixels, [1, 2]), "its own target, got 2 for 1 images"),
        (lambda ours, pixels: relevance(ours.vit, pixels), "a SuiteViTModel has no classes to explain: fine-tune"),
        (
            lambda ours, pixels: relevance(ours, pixels, input_ids=torch.zeros(1, 3)),
            "a SuiteViTForImageClassification reads no texts",
        ),
        (lambda ours, pixels: attention_gradient(ours, pixels, head=2), "head must be from 0 to 1, got 2"),
    ],
)
def test_wrong_requests_are_refused(explain, message: str):
    with pytest.raises(ValueError, match=message):
        explain(ours_from_vit(), torch.zeros(1, 3, 32, 32))
