"""What every family and every Auto class of it must do.

Saved weights are bit-equal; outputs are equal within a tolerance relative to the largest expected value.
"""

import copy

import pytest
import torch
import transformers
from every_family import (
    assert_close,
    build,
    every_class,
    every_class_with_one_tower,
    floats,
    one_a_family,
    one_a_form,
    one_a_form_with_one_tower,
    scalar,
)
from families import REPRESENTATIVES, WITH_ONE_TOWER, Family
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_vit_suite.models.transformer import Block

BACKENDS = ("eager", "sdpa", "flex_attention")


@every_class
def test_backward_reaches_every_trained_parameter(family: Family, auto_class: str):
    model = build(family, auto_class).train()
    scalar(model(**family.inputs(model))).backward()
    for name, weight in model.named_parameters():
        if not weight.requires_grad or name.endswith(family.unused):
            assert weight.grad is None, name
        else:
            assert weight.grad is not None, name
            assert weight.grad.isfinite().all(), name
            assert weight.grad.abs().sum() > 0, name


@every_class
def test_saved_folder_opens_through_the_auto_class_with_the_same_outputs(family: Family, auto_class: str, tmp_path):
    model = build(family, auto_class)
    model.save_pretrained(tmp_path)
    reopened = getattr(transformers, auto_class).from_pretrained(tmp_path).eval()
    assert type(reopened) is type(model)
    inputs = family.inputs(model)
    assert_close(reopened(**inputs), model(**inputs))


def trained_names(model: transformers.PreTrainedModel) -> set[str]:
    """Names of the parameters that an optimiser would change."""
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@every_class
def test_what_a_constructor_freezes_stays_frozen(family: Family, auto_class: str, tmp_path):
    """transformers' loader makes every parameter that it reads trainable."""
    model = build(family, auto_class)
    model.save_pretrained(tmp_path)
    auto, expected = getattr(transformers, auto_class), trained_names(model)
    assert trained_names(auto.from_pretrained(tmp_path)) == expected
    assert trained_names(auto.from_pretrained(tmp_path, dtype=torch.bfloat16, device_map="cpu")) == expected
    assert trained_names(model.requires_grad_(False).requires_grad_(True)) == expected


@every_class
def test_fixed_values_get_no_gradient_where_a_caller_makes_all_trainable(family: Family, auto_class: str):
    model = build(family, auto_class).train()
    expected = trained_names(model)
    for weight in model.parameters():
        weight.requires_grad_(True)
    scalar(model(**family.inputs(model))).backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} <= expected


@every_class
def test_depth_changed_after_construction_is_saved_and_loaded(family: Family, auto_class: str, tmp_path):
    config = family.config()
    for part in [getattr(config, name) for name in config.sub_configs] or [config]:
        part.num_hidden_layers = 2
    auto = getattr(transformers, auto_class)
    model = auto.from_config(config).eval()
    model.save_pretrained(tmp_path)
    reopened = auto.from_pretrained(tmp_path).eval()
    assert reopened.num_parameters() == model.num_parameters() < auto.from_config(family.config()).num_parameters()
    assert_close(reopened(**family.inputs(model)), model(**family.inputs(model)))


@one_a_form
def test_encoder_weights_go_on_in_every_other_class(family: Family, tmp_path):
    encoder = build(family, family.auto_classes[0])
    encoder.save_pretrained(tmp_path)
    expected = encoder.state_dict()
    for auto_class in family.auto_classes[1:]:
        found = getattr(transformers, auto_class).from_pretrained(tmp_path).base_model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


@one_a_form
@torch.no_grad()
def test_attention_backends_agree(family: Family):
    model = build(family, family.auto_classes[0], attn_implementation="eager")
    inputs = family.inputs(model)
    expected = model(**inputs)
    for backend in (
        BACKENDS if family in REPRESENTATIVES else BACKENDS[:2]
    ):  # flex_attention compiles for half a minute
        model.set_attn_implementation(backend)
        assert_close(model(**inputs), expected)


@one_a_form
def test_flash_attention_is_declared(family: Family):
    assert build(family, family.auto_classes[0])._supports_flash_attn


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        pytest.param(family, backend, id=f"{family.name}-{backend}")
        for family in WITH_ONE_TOWER
        for backend in BACKENDS
        if family in REPRESENTATIVES or backend != "flex_attention"
    ],
)
@torch.no_grad()
def test_chosen_layers_return_attention_under_every_backend(family: Family, backend: str):
    model = build(family, family.auto_classes[0], attn_implementation="eager")
    inputs = family.inputs(model)
    every_layer = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(backend)
    for layers, expected in (([-1], every_layer[-1:]), ([0, 2], every_layer[::2]), (None, every_layer)):
        found = model(**inputs, output_attentions=True, attention_layers=layers).attentions
        assert_close(found, expected)
    assert model(**inputs).get("attentions") is None
    assert model.config._attn_implementation == backend


@pytest.mark.parametrize(
    "family", [family for family in REPRESENTATIVES if family in WITH_ONE_TOWER], ids=lambda family: family.name
)
@torch.no_grad()
def test_only_the_chosen_layers_leave_the_backend_and_for_that_call_alone(family: Family, monkeypatch):
    calls = []

    def counted(module, *arguments, **options):
        calls.append(module)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *arguments, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "counted", counted)
    model = build(family, family.auto_classes[0])
    model.set_attn_implementation("counted")
    inputs = family.inputs(model)
    model(**inputs)
    every_layer = calls.copy()
    assert len(every_layer) == model.config.num_hidden_layers
    for layers, expected in (([-1], every_layer[:-1]), ([0], every_layer[1:]), (None, [])):
        calls.clear()
        model(**inputs, output_attentions=True, attention_layers=layers)
        assert calls == expected
        calls.clear()
        model(**inputs)
        assert calls == every_layer


@every_class_with_one_tower
@torch.no_grad()
def test_every_class_returns_attentions_and_hidden_states_of_its_encoder_when_asked(family: Family, auto_class: str):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    asked_for = {"output_attentions": "attentions", "output_hidden_states": "hidden_states"}
    for option, name in asked_for.items():
        found = model(**inputs, **{option: True})
        assert_close(found[name], model.base_model(**family.encoder_inputs(model), **{option: True})[name])
        assert not ({*asked_for.values()} - {name}) & found.keys()


@one_a_form_with_one_tower
@torch.no_grad()
def test_config_can_ask_for_attentions_and_hidden_states_under_sdpa(family: Family, tmp_path):
    model = build(family, family.auto_classes[0], attn_implementation="eager")
    model.save_pretrained(tmp_path)
    expected = model(**family.inputs(model), output_attentions=True, output_hidden_states=True)
    reopened = getattr(transformers, family.auto_classes[0]).from_pretrained(
        tmp_path, output_attentions=True, output_hidden_states=True, attn_implementation="sdpa"
    )
    outputs = reopened.eval()(**family.inputs(model))
    assert reopened.config._attn_implementation == "sdpa"
    assert len(outputs.attentions) == model.config.num_hidden_layers
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    assert_close(outputs, expected)


@every_class
@torch.no_grad()
def test_tuple_output_holds_the_same_tensors(family: Family, auto_class: str):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert_close(as_tuple, model(**inputs), tolerance=0)


@every_class
def test_whole_graph_compiles_to_the_same_outputs_and_gradients(family: Family, auto_class: str):
    torch.compiler.reset()
    model = build(family, auto_class)
    compiled_model = copy.deepcopy(model)
    # Capturing the whole graph is what a model can break; the slow code generator runs in a test of its own.
    compiled = torch.compile(compiled_model, fullgraph=True, backend="aot_eager")
    inputs = family.inputs(model)
    assert_close(compiled(**inputs), model(**inputs))
    scalar(compiled(**inputs)).backward()
    scalar(model(**inputs)).backward()
    for (name, found), expected in zip(compiled_model.named_parameters(), model.parameters(), strict=True):
        if expected.grad is not None:
            assert (found.grad - expected.grad).abs().max() <= 1e-4 * expected.grad.abs().max(), name
    options = {"output_attentions": True, "attention_layers": [-1], "output_hidden_states": True}
    assert_close(compiled(**inputs, **options), model(**inputs, **options))


@one_a_family
@torch.no_grad()
def test_default_compiler_gives_the_same_outputs(family: Family):
    torch.compiler.reset()
    model = build(family, family.auto_classes[:2][-1])
    inputs = family.inputs(model)
    compiled = torch.compile(model, fullgraph=True)
    for options in ({}, {"output_attentions": True, "output_hidden_states": True}):
        assert_close(compiled(**inputs, **options), model(**inputs, **options))


@every_class
def test_gradient_checkpointing_changes_no_gradient(family: Family, auto_class: str):
    model = build(family, auto_class).train()
    inputs = family.inputs(model)
    scalar(model(**inputs)).backward()
    expected = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    model.activation_checkpointing_enable()
    scalar(model(**inputs)).backward()
    for name, weight in model.named_parameters():
        if name in expected:
            assert_close(weight.grad, expected[name])


@one_a_family
def test_hooks_of_checkpointed_blocks_run_once(family: Family):
    """As those with which FSDP gathers and frees a block's weights; the backward pass computes the block again."""
    model = build(family, family.auto_classes[0]).train()
    model.activation_checkpointing_enable()
    calls = []
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        block.register_forward_pre_hook(lambda module, arguments: calls.append(module))
    scalar(model(**family.inputs(model))).backward()
    assert calls == blocks


@one_a_family
def test_gradient_checkpointing_keeps_fewer_tensors(family: Family):
    model = build(family, family.auto_classes[0]).train()
    inputs = family.inputs(model)

    def kept_bytes() -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(**inputs)
        return sum(sizes)

    without = kept_bytes()
    model.activation_checkpointing_enable(every_n_layers=2)
    every_second = kept_bytes()
    model.activation_checkpointing_disable()
    model.activation_checkpointing_enable()
    assert kept_bytes() < without / 2
    assert kept_bytes() < every_second < without


@every_class
@torch.no_grad()
def test_bfloat16_autocast_and_weights_stay_close_to_float32(family: Family, auto_class: str):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    expected = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(model(**inputs), expected, tolerance=0.05)
    assert_close(model.to(torch.bfloat16)(**inputs), expected, tolerance=0.05)


REMOTE = """
import sys, torch
sys.modules["hf_vit_suite"] = None  # importing it raises
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module
try:
    import hf_vit_suite
except ImportError:
    pass
else:
    raise AssertionError("hf_vit_suite must not be importable here")
folder, inputs, outputs = sys.argv[1], torch.load("inputs.pt"), {}
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
for auto_class, reference in config.auto_map.items():
    if auto_class == "AutoConfig":
        continue
    if auto_class == "AutoBackbone":  # transformers' own asks the Hub for any name, folders included
        model = get_class_from_dynamic_module(reference, folder).from_pretrained(folder)
    else:
        model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    found = model.eval()(**inputs[auto_class])
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    # Two towers have outputs within the output, of a class that torch.load does not trust.
    outputs[auto_class] = {name: dict(value) if isinstance(value, dict) else value for name, value in found.items()}
torch.save(outputs, "outputs.pt")
"""


@one_a_form
def test_folder_opens_where_the_package_cannot_be_imported(family: Family, tmp_path, run_python):
    model = build(family, family.auto_classes[:2][-1])
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    here = {name: getattr(transformers, name).from_pretrained(folder).eval() for name in family.auto_classes}
    inputs = {auto_class: family.inputs(local) for auto_class, local in here.items()}
    torch.save(inputs, tmp_path / "inputs.pt")
    run_python("-c", REMOTE, str(folder), PYTHONPATH="")
    outputs = torch.load(tmp_path / "outputs.pt")
    assert set(outputs) == set(family.auto_classes)
    for auto_class, local in here.items():
        expected = (model if type(local) is type(model) else local)(**inputs[auto_class])
        assert outputs[auto_class].keys() == expected.keys()
        assert floats(outputs[auto_class])
        assert_close(outputs[auto_class], expected)


@one_a_family
def test_code_in_the_folder_is_refused_without_trust(family: Family, tmp_path, run_python):
    build(family, family.auto_classes[0]).save_pretrained(tmp_path / "model")
    script = "import transformers; transformers.AutoModel.from_pretrained('model')"
    result = run_python("-c", "import sys; sys.modules['hf_vit_suite'] = None\n" + script, check=False)
    assert result.returncode
    assert "trust_remote_code" in result.stderr
