"""The model that is observed in place of another: the same weights, and nothing else that a change would reach."""

import threading
from collections.abc import Callable
from types import MethodType

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from explained import CLIP_FIELDS, TINY, transformers_classifier, transformers_clip
from families import FAMILIES, TINY_DINO, TINY_MAE
from references import assert_equals_reference, randomise
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPModel,
    SuiteDINOConfig,
    SuiteDINOForPreTraining,
    SuiteMAEConfig,
    SuiteMAEForPreTraining,
    SuiteViTConfig,
    SuiteViTForImageClassification,
)
from hf_vit_suite.explain import attention_maps, patch_features, relevance
from hf_vit_suite.explain.encoders import image_encoder
from hf_vit_suite.explain.observation import BACKEND, observed
from hf_vit_suite.explain.twins import twin


class Recorder:
    """Keeps what a module puts out, which has a graph and so can't be copied."""

    def __init__(self):
        self.outputs = []

    def record(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.outputs.append(output)


def compile_forward(model: PreTrainedModel) -> None:
    model.forward = torch.compile(model.forward, backend="eager")
    model(torch.zeros(1, 3, 32, 32))


def compile_encoder(model: PreTrainedModel) -> None:
    model.vit.encoder = torch.compile(model.vit.encoder, backend="eager")


def wrap_forward(model: PreTrainedModel) -> None:
    forward = model.forward
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def record_outputs(model: PreTrainedModel) -> None:
    model.vit.encoder.blocks[0].register_forward_hook(Recorder().record)
    model(torch.zeros(1, 3, 32, 32))


def normalise_weight(model: PreTrainedModel) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(model.classifier)
    model(torch.zeros(1, 3, 32, 32))


def hold_a_lock(model: PreTrainedModel) -> None:
    model.lock = threading.Lock()


def align_devices(model: PreTrainedModel) -> None:
    """As accelerate does with a `device_map`."""
    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))


def keep_unregistered(model: PreTrainedModel) -> None:
    """The first block is reached through a list and a method, not through the registered submodules."""
    encoder = model.vit.encoder
    encoder.unregistered = [encoder.blocks[0]]
    encoder.blocks[0] = Detour()
    encoder.blocks[0].__dict__["run"] = MethodType(
        lambda owner, *args, **kw: owner.unregistered[0](*args, **kw), encoder
    )


class Detour(nn.Module):
    """Calls what was set on it."""

    def forward(self, *args, **kwargs):
        return self.run(*args, **kwargs)


CHANGES: dict[str, Callable[[PreTrainedModel], object]] = {
    "compiled forward": compile_forward,
    "wrapped forward": wrap_forward,
    "wrapped forward of the encoder": lambda model: wrap_forward(model.vit),
    "hook that keeps outputs": record_outputs,
    "weight norm": normalise_weight,
    "lock": hold_a_lock,
    "compiled submodule": compile_encoder,
    "compiled in place": lambda model: model.compile(backend="eager"),
    "accelerate's hooks": align_devices,
    "unregistered modules": keep_unregistered,
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_hangs_on_a_model_does_not_change_its_explanations(change: str):
    model = randomise(SuiteViTForImageClassification(SuiteViTConfig(**TINY, num_labels=5)), scale=0.3).eval()
    pixels = torch.randn(2, 3, 32, 32)
    explanations = [
        lambda: relevance(model, pixels, target=2),
        lambda: attention_maps(model, pixels, layer=0),
        lambda: patch_features(model, pixels, layer=1),
    ]
    expected = [explain() for explain in explanations]
    CHANGES[change](model)
    for explain, before in zip(explanations, expected, strict=True):
        assert_equals_reference(explain(), before)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    **{family.name: lambda family=family: AutoModel.from_config(family.config()) for family in FAMILIES},
    "mae for pretraining": lambda: SuiteMAEForPreTraining(SuiteMAEConfig(**TINY_MAE)),
    "dino for pretraining": lambda: SuiteDINOForPreTraining(SuiteDINOConfig(**TINY_DINO)),
    "our clip": lambda: SuiteCLIPModel(SuiteCLIPConfig(**CLIP_FIELDS)),
    "transformers' clip": transformers_clip,
    **{
        f"transformers' {name}": lambda name=name: transformers_classifier(name)[0]
        for name in ("vit", "deit", "dinov2")
    },
}
MODELS.pop("clip-text")


def configs_of(model: nn.Module) -> list:
    """The config of each module that has one, in order."""
    return [module.config for module in model.modules() if hasattr(module, "config")]


def sharing(configs: list) -> list[int]:
    """For each config the place at which the same object occurs first."""
    first = {}
    return [first.setdefault(id(config), place) for place, config in enumerate(configs)]


@pytest.mark.parametrize("name", MODELS)
def test_a_twin_has_the_weights_and_configs_of_its_own_shared_alike(name: str):
    model = MODELS[name]()
    model.set_attn_implementation("sdpa")
    copied = twin(model)
    assert all(mine is theirs for mine, theirs in zip(model.parameters(), copied.parameters(), strict=True))
    assert all(mine is theirs for mine, theirs in zip(model.buffers(), copied.buffers(), strict=True))
    assert not set(model.modules()) & set(copied.modules())
    configs, own = configs_of(model), configs_of(copied)
    assert sharing(configs) == sharing(own)
    assert not set(map(id, configs)) & set(map(id, own))
    own[0]._attn_implementation = "eager"
    assert {config._attn_implementation for config in configs} == {"sdpa"}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_observed_and_its_configs_stay(name: str):
    model, layers = MODELS[name]().eval(), []
    model.set_attn_implementation("sdpa")
    before = [config.to_dict() for config in configs_of(model) if hasattr(config, "to_dict")]
    with observed(model, lambda weights, _: layers.append(weights.shape[1]), range(3)) as watched:
        encoder = image_encoder(watched)
        encoder.encode(torch.randn(1, 3, 32, 32))
        assert {config._attn_implementation for config in configs_of(encoder.module)} == {BACKEND}
        assert {config._attn_implementation for config in configs_of(model)} == {"sdpa"}
    assert layers == [2, 2, 2]
    assert [config.to_dict() for config in configs_of(model) if hasattr(config, "to_dict")] == before


def test_the_decoder_of_a_maes_twin_reads_the_twins_config():
    copied = twin(SuiteMAEForPreTraining(SuiteMAEConfig(**TINY_MAE)))
    attention = copied.decoder.trunk.blocks[0].attention
    assert attention.config.config is copied.config is copied.vit.config
    assert attention.config.hidden_size == TINY_MAE["decoder_hidden_size"]


def test_a_submodule_that_two_modules_share_is_shared_in_the_twin():
    model = MODELS["vit"]()
    model.again = model.embeddings
    copied = twin(model)
    assert copied.again is copied.embeddings
    assert copied.again is not model.embeddings


def test_a_hook_on_a_twin_is_none_of_the_model():
    model = MODELS["vit"]()
    for module in twin(model).modules():
        module.register_forward_hook(lambda *_: None)
        module.register_full_backward_hook(lambda *_: None)
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
