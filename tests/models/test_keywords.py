"""Calls as people write them for transformers' vision models: the same keywords do the same."""

import inspect
import logging

import pytest
import torch
import torch.nn.functional as F
from every_family import CASES, assert_close, build, every_class, every_class_with_one_tower, one_a_form_with_one_tower
from families import TINY_VIT, Family

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification, SuiteViTModel

OF_IMAGES = [case for case in CASES if "clip-text" not in case.id]


@every_class
@torch.no_grad()
def test_unknown_keyword_is_ignored_with_one_warning(family: Family, auto_class: str, caplog):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    keyword = f"made_up_for_{family.name}_{auto_class}"
    with caplog.at_level(logging.WARNING):
        found = model(**inputs, **{keyword: torch.ones(1)})
    assert_close(found, model(**inputs))
    assert [f"has no use for {keyword}: ignored" in record.message for record in caplog.records] == [True]
    caplog.clear()
    model(**inputs, another=None)
    assert not caplog.records


@every_class
def test_missing_input_is_refused_by_name(family: Family, auto_class: str):
    model = build(family, auto_class)
    with pytest.raises(ValueError, match=rf"needs .*{model.main_input_name}.*: pass"):
        model()


@every_class
def test_signature_names_return_dict_and_takes_any_keyword(family: Family, auto_class: str):
    parameters = inspect.signature(build(family, auto_class).forward).parameters
    assert parameters["return_dict"].default is None
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    assert next(iter(parameters)) == build(family, auto_class).main_input_name


@pytest.mark.parametrize(("family", "auto_class"), OF_IMAGES)
@torch.no_grad()
def test_interpolation_drops_the_remainder_of_other_sizes(family: Family, auto_class: str):
    model = build(family, auto_class)
    whole = family.inputs(model)
    torch.manual_seed(0)
    larger = {
        name: F.pad(value, (0, 5, 0, 3), value=9.0) if "pixel" in name else value for name, value in whole.items()
    }
    assert_close(model(**larger, interpolate_pos_encoding=True), model(**whole))
    if auto_class == "AutoBackbone":  # detectors never ask for it
        assert_close(model(**larger), model(**whole))
    else:
        with pytest.raises(
            ValueError, match=r"image sides must be multiples of the patch size 8, got .* pixels: resize"
        ):
            model(**larger)


def with_other_last_token(inputs: dict) -> dict:
    """Another image or text at the place of the last token alone."""
    changed = {name: value.clone() for name, value in inputs.items()}
    if "input_ids" in changed:
        changed["input_ids"][:, -1] = 7
    else:
        changed["pixel_values"][..., -8:, -8:] = torch.randn(2, 3, 8, 8)
    return changed


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@one_a_form_with_one_tower
@torch.no_grad()
def test_no_token_sees_a_masked_one(family: Family, backend: str):
    model = build(family, family.auto_classes[0], attn_implementation=backend)
    inputs = family.inputs(model)
    changed = with_other_last_token(inputs)
    tokens = model(**inputs).last_hidden_state.shape[1]
    mask = torch.ones(2, tokens, dtype=torch.long)
    assert_close(model(**inputs | {"attention_mask": mask}), model(**inputs))
    mask[:, -1] = 0
    for dtype in (torch.long, torch.bool):
        found, expected = (
            model(**images | {"attention_mask": mask.to(dtype)}).last_hidden_state[:, :-1]
            for images in (changed, inputs)
        )
        assert_close(found, expected)
    if "input_ids" not in inputs:  # no earlier token sees the last one of a text in any case
        assert (model(**changed).last_hidden_state - model(**inputs).last_hidden_state)[:, :-1].abs().max() > 1e-3
    weights = model(**inputs | {"attention_mask": mask}, output_attentions=True).attentions
    assert all((layer[:, :, :-1, -1] == 0).all() for layer in weights)
    assert_close(sum(weights).sum(dim=-1), torch.full(weights[0].shape[:3], float(len(weights))))


@one_a_form_with_one_tower
def test_mask_of_another_length_is_refused(family: Family):
    model = build(family, family.auto_classes[0])
    inputs = family.inputs(model)
    tokens = model(**inputs).last_hidden_state.shape[1]
    for shape in ((2, tokens - 1), (1, tokens), (2, tokens, tokens)):
        with pytest.raises(ValueError, match=rf"attention_mask must be \[batch, tokens\] = \[2, {tokens}\]"):
            model(**inputs | {"attention_mask": torch.ones(shape, dtype=torch.long)})


@every_class_with_one_tower
@torch.no_grad()
def test_chosen_hidden_states_are_returned_and_none_in_place_of_the_others(family: Family, auto_class: str):
    model = build(family, auto_class)
    inputs = family.inputs(model)
    every = model(**inputs, output_hidden_states=True).hidden_states
    for wanted in ([0, -1], -1, (1,)):
        numbers = {number % len(every) for number in ([wanted] if isinstance(wanted, int) else wanted)}
        found = model(**inputs, output_hidden_states=wanted).hidden_states
        assert [state is not None for state in found] == [number in numbers for number in range(len(every))]
        assert_close(found, [every[number] for number in sorted(numbers)])


def test_encoder_without_pooling_layer_has_no_pooled_output():
    config = SuiteViTConfig(**TINY_VIT, representation_size=16)
    model = SuiteViTModel(config, add_pooling_layer=False).eval()
    pixels = torch.randn(1, 3, 32, 32)
    assert model(pixels).pooler_output is None
    assert not [name for name, _ in model.named_parameters() if "pre_logits" in name]
    assert len(model(pixels, return_dict=False)) == 1


@torch.no_grad()
def test_mask_token_can_be_asked_of_the_constructor():
    model = SuiteViTModel(SuiteViTConfig(**TINY_VIT), use_mask_token=True).eval()
    pixels, masks = torch.randn(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.bool)
    plain = model(pixels).last_hidden_state
    assert_close(model(pixels, bool_masked_pos=masks).last_hidden_state, plain)
    masks[0, 3] = True
    masked = model(pixels, bool_masked_pos=masks).last_hidden_state
    assert (masked - plain).abs().max() > 1e-3
    assert_close(model(pixels, bool_masked_pos=masks.long()).last_hidden_state, masked)


def test_square_patch_may_be_given_as_two_numbers():
    assert SuiteViTConfig(patch_size=(8, 8)).patch_size == SuiteViTConfig(patch_size=[8, 8]).patch_size == 8
    with pytest.raises(ValueError, match=r"patch_size must be one number, as patches are square, got \(8, 16\)"):
        SuiteViTConfig(patch_size=(8, 16))


def test_save_takes_its_arguments_by_position_as_transformers_does(tmp_path):
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT))
    model.save_pretrained(tmp_path / "not", False)
    assert not list((tmp_path / "not").glob("*"))
    state = {name: weight + 1 for name, weight in model.state_dict().items()}
    model.save_pretrained(tmp_path / "main", True, dict(state))
    reopened = SuiteViTForImageClassification.from_pretrained(tmp_path / "main")
    assert all(torch.equal(weight, state[name]) for name, weight in reopened.state_dict().items())


def test_own_loss_function_is_used():
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT))
    model.loss_function = lambda labels, logits, config, **kwargs: logits.sum() * 0 + labels.sum() + config.num_labels
    assert model(torch.randn(2, 3, 32, 32), labels=torch.tensor([1, 2])).loss.item() == 6


def test_problem_type_follows_the_labels_as_in_transformers():
    pixels = torch.randn(2, 3, 32, 32)
    cases = [
        (3, torch.tensor([0, 2]), "single_label_classification"),
        (3, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), "multi_label_classification"),
        (1, torch.tensor([0.5, 1.5]), "regression"),
        (1, torch.tensor([0, 1]), "regression"),
    ]
    for num_labels, labels, expected in cases:
        model = SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT | {"num_labels": num_labels}))
        loss = model(pixels, labels=labels).loss
        assert model.config.problem_type == expected
        loss.backward()
        assert model.classifier.weight.grad.abs().sum() > 0
