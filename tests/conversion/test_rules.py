"""The engine: every tensor is accounted for, and what is read forward is written backward."""

import pytest
import torch
from hf_vit_suite.conversion.rules import (
    Rule,
    UnaccountedTensorsError,
    chained,
    constant,
    drop,
    fuse,
    leave,
    permuted,
    plan_export,
    plan_import,
    rename,
    reshaped,
    within,
)
from hf_vit_suite.conversion.writing import in_turn
from torch import Tensor

RULES = [
    rename("tokens", "embeddings.tokens", reshaped((-1,), (1, 1, -1))),
    *within(
        [
            fuse(["q.{parameter}", "k.{parameter}"], "qk.{parameter}"),
            rename("kernel", "weight", chained(reshaped((4, 2, 3), (4, 6)), permuted(1, 0))),
        ],
        "layer{layer}/",
        "blocks.{layer}.",
    ),
    drop("optimizer.{rest}", "training state"),
    constant("size", torch.tensor(32), "32"),
    constant("numbers", torch.arange(3), "0, 1, 2", is_optional=True),
]


def theirs() -> dict[str, Tensor]:
    """Tensors that every rule has work with."""
    generator = torch.Generator().manual_seed(0)
    tensors = {"tokens": torch.randn(5, generator=generator), "size": torch.tensor(32)}
    for layer in (0, 11):
        for part in "qk":
            tensors[f"layer{layer}/{part}.weight"] = torch.randn(2, 3, generator=generator)
            tensors[f"layer{layer}/{part}.bias"] = torch.randn(2, generator=generator)
        tensors[f"layer{layer}/kernel"] = torch.randn(4, 2, 3, generator=generator)
    return tensors


def imported(rules: list[Rule], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ours."""
    return dict(in_turn(plan_import(rules, tensors).steps, tensors.__getitem__, None))


def exported(rules: list[Rule], tensors: dict[str, Tensor], constants: list[str] | None = None) -> dict[str, Tensor]:
    """Theirs again."""
    return dict(in_turn(plan_export(rules, tensors, constants).steps, tensors.__getitem__, None))


def test_rules_read_forward_make_our_tensors():
    source = theirs()
    ours = imported(RULES, source)
    assert set(ours) == {"embeddings.tokens"} | {
        f"blocks.{layer}.{name}" for layer in (0, 11) for name in ("qk.weight", "qk.bias", "weight")
    }
    assert torch.equal(ours["embeddings.tokens"], source["tokens"].view(1, 1, 5))
    parts = source["layer11/q.weight"], source["layer11/k.weight"]
    assert torch.equal(ours["blocks.11.qk.weight"], torch.cat(parts))
    assert torch.equal(ours["blocks.0.weight"], source["layer0/kernel"].reshape(4, 6).T)


@pytest.mark.parametrize("numbers", [{}, {"numbers": torch.arange(3)}])
def test_rules_read_backward_make_the_same_tensors_again(numbers: dict[str, Tensor]):
    source = theirs() | numbers
    again = exported(RULES, imported(RULES, source), list(numbers))
    assert again.keys() == source.keys()
    assert all(torch.equal(again[name], source[name]) for name in source)


def test_dropped_tensors_come_with_their_reasons_and_are_not_written_again():
    plan = plan_import(RULES, [*theirs(), "optimizer.state.0"])
    assert plan.dropped["optimizer.state.0"] == "training state"
    ours = imported(RULES, theirs())
    assert "optimizer.state.0" not in exported(RULES, ours)
    kept = plan_export([*RULES, leave("mask", "nobody masks")], [*ours, "mask"])
    assert kept.dropped == {"mask": "nobody masks"}


def test_unknown_tensors_are_listed_in_both_directions():
    with pytest.raises(UnaccountedTensorsError, match=r"2 tensors have no place: stranger, layer0/stranger"):
        plan_import(RULES, [*theirs(), "stranger", "layer0/stranger"])
    with pytest.raises(UnaccountedTensorsError, match="1 tensors have no place: stranger"):
        plan_export(RULES, [*imported(RULES, theirs()), "stranger"])


def test_a_part_of_a_fused_group_is_not_used_alone():
    source = theirs()
    del source["layer0/k.bias"]
    with pytest.raises(UnaccountedTensorsError, match=r"layer0/q\.bias"):
        plan_import(RULES, source)


def test_a_constant_of_another_value_is_refused():
    with pytest.raises(ValueError, match="size has values of its own, which would be lost: expected 32"):
        imported(RULES, theirs() | {"size": torch.tensor(33)})


def test_planning_on_the_meta_device_gives_the_shapes():
    source = {name: tensor.to("meta") for name, tensor in theirs().items()}
    planned = imported(RULES, source)
    real = imported(RULES, theirs())
    assert {name: tensor.shape for name, tensor in planned.items()} == {n: t.shape for n, t in real.items()}
