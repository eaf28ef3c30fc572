"""Cases of every family and Auto class, and the measure of equality of whole outputs."""

import pytest
import torch
import transformers
from families import FAMILIES, REPRESENTATIVES, WITH_ONE_TOWER, Family
from torch import Tensor

CASES = [
    pytest.param(family, auto_class, id=f"{family.name}-{auto_class}")
    for family in FAMILIES
    for auto_class in family.auto_classes
]
one_a_form = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
one_a_form_with_one_tower = pytest.mark.parametrize("family", WITH_ONE_TOWER, ids=lambda family: family.name)
one_a_family = pytest.mark.parametrize("family", REPRESENTATIVES, ids=lambda family: family.name)
every_class = pytest.mark.parametrize(("family", "auto_class"), CASES)
every_class_with_one_tower = pytest.mark.parametrize(
    ("family", "auto_class"), [case for case in CASES if case.values[0] in WITH_ONE_TOWER]
)


def build(family: Family, auto_class: str, **options) -> transformers.PreTrainedModel:
    """A model with every weight random, so that nothing is zero by initialisation."""
    model = getattr(transformers, auto_class).from_config(family.config(), **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model.eval()


def floats(outputs) -> list[Tensor]:
    """Every tensor of a model output, in order."""
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values if value is not None for tensor in floats(value)]


def scalar(outputs) -> Tensor:
    """A number on which every output depends."""
    return sum(
        (tensor.float() * torch.linspace(-1, 1, tensor.numel()).view_as(tensor)).sum() for tensor in floats(outputs)
    )


def assert_close(found, expected, tolerance: float = 1e-5) -> None:
    """Every tensor within `tolerance` of the largest expected value."""
    found, expected = floats(found), floats(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other.float()).abs().max() <= tolerance * other.float().abs().max()
