"""Every layout: recognised, equal to the reference's own outputs, and written back bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hf_vit_suite.conversion import convert, export_reference, open_reference
from hf_vit_suite.conversion.verification import verify
from published import PUBLISHED, Published
from references import assert_equals_reference
from safetensors.torch import load_file
from torch import Tensor

SCRIPT_IS_DEPRECATED = "ignore:`torch.jit"


def content(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file of any kind, nested names joined."""
    if path.is_dir():
        return load_file(path / "model.safetensors")
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    if path.suffix == ".safetensors":
        return load_file(path)
    return dict(flat(torch.load(path, weights_only=False)))


def flat(nested: dict, prefix: str = ""):
    """Tensors of nested dictionaries."""
    for name, value in nested.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Same names, types, shapes and numbers."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.filterwarnings(SCRIPT_IS_DEPRECATED)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_gives_the_references_outputs_and_goes_back_bit_for_bit(name: str, tmp_path: Path):
    with torch.no_grad():
        published: Published = PUBLISHED[name](tmp_path)
        model = convert(published.source, tmp_path / "ours", head=published.head, **published.options)
        assert type(model).__name__ == published.model
        found = published.compute(model.float())
    for ours, theirs in zip(found, published.expected, strict=True):
        assert_equals_reference(ours, theirs, name=name)

    verify(open_reference(published.source, head=published.head), model)
    back = tmp_path / f"back{published.source.suffix}"
    head = tmp_path / "back_head.pth" if published.head else None
    export_reference(tmp_path / "ours", back, name.split()[0], head=head)
    if name == "openai-clip":
        expected = dict(torch.jit.load(published.source).state_dict())
    else:
        expected = content(published.source)
    assert_same_bits(content(back), expected)
    if head is not None:
        assert_same_bits(content(head), content(published.head))
