"""Explaining a model in one thread does not change its outputs in other threads."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from explained import CLIP_FIELDS, TINY, transformers_classifier, transformers_clip
from references import assert_equals_reference, randomise
from torch import Tensor
from transformers import PreTrainedModel

from hf_vit_suite import SuiteCLIPConfig, SuiteCLIPModel, SuiteViTConfig, SuiteViTForImageClassification
from hf_vit_suite.explain import (
    attention_gradient,
    attention_maps,
    classify,
    patch_features,
    relevance,
    rollout,
    text_scores,
)

INPUT_IDS = torch.tensor([[58, 3, 4, 59], [58, 7, 59, 59]])
ROUNDS = 12
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "ours": lambda: randomise(SuiteViTForImageClassification(SuiteViTConfig(**TINY, num_labels=5)), scale=0.3),
    "our clip": lambda: randomise(SuiteCLIPModel(SuiteCLIPConfig(**CLIP_FIELDS)), scale=0.3),
    "clip": transformers_clip,
    **{name: lambda name=name: transformers_classifier(name)[0] for name in ("vit", "deit", "dinov2")},
}


def calls(model: PreTrainedModel) -> list[Callable[[Tensor], Tensor]]:
    """Explanations of a model, and as many plain forward passes."""
    has_texts = hasattr(model, "text_model")
    options = {"input_ids": INPUT_IDS} if has_texts else {"target": 2}
    explained = [
        lambda pixels: relevance(model, pixels, **options),
        lambda pixels: attention_gradient(model, pixels, **options),
        lambda pixels: attention_maps(model, pixels, layer=0) + rollout(model, pixels),
        lambda pixels: patch_features(model, pixels, layer=1),
    ]
    plain = (lambda pixels: text_scores(model, pixels, INPUT_IDS)) if has_texts else partial(classify, model)
    return [*explained, *[plain] * 4]


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_explanations_and_plain_passes_in_eight_threads_equal_those_alone(name: str, backend: str):
    model = MODELS[name]().eval()
    model.set_attn_implementation(backend)
    functions = calls(model)
    pixels = [torch.randn(2, 3, 32, 32) for _ in functions]
    expected = [function(of_thread).detach() for function, of_thread in zip(functions, pixels, strict=True)]
    configs = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    together = threading.Barrier(len(functions))

    def repeat(function: Callable[[Tensor], Tensor], of_thread: Tensor, alone: Tensor) -> set[str]:
        together.wait()
        backends = set()
        for _ in range(ROUNDS):
            assert_equals_reference(function(of_thread).detach(), alone)
            backends |= {config._attn_implementation for config in configs}
        return backends

    with ThreadPoolExecutor(len(functions)) as pool:
        assert set.union(*pool.map(repeat, functions, pixels, expected)) == {backend}


def test_an_explanation_leaves_a_model_as_it_was():
    model = MODELS["ours"]().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    attention_maps(model.eval(), torch.randn(1, 3, 32, 32))
    relevance(model, torch.randn(1, 3, 32, 32))
    patch_features(model, torch.randn(1, 3, 32, 32))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_an_explanation_copies_no_weights(monkeypatch: pytest.MonkeyPatch):
    model = MODELS["ours"]()
    monkeypatch.setattr(torch.nn.Parameter, "__deepcopy__", lambda *_: pytest.fail("a weight was copied"))
    attention_maps(model, torch.randn(1, 3, 32, 32))
    relevance(model, torch.randn(1, 3, 32, 32))
