"""Every layout: recognised, equal to the reference's own outputs, and written back bit for bit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hf_vit_suite.conversion import convert, export_reference, open_reference
from hf_vit_suite.conversion.verification import verify
from published import PIXELS, PUBLISHED, Published
from references import assert_equals_reference
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageClassification

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification

SCRIPT_IS_DEPRECATED = "ignore:`torch.jit"
TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 64,
    "image_size": 32,
    "id2label": {0: "cat", 1: "dog"},
}


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


def test_a_dino_head_under_the_names_of_newer_torch_is_read(tmp_path: Path):
    published = PUBLISHED["dino full"](tmp_path)
    content = torch.load(published.source, weights_only=False)
    for model in ("student", "teacher"):
        content[model] = {
            name.replace("weight_g", "parametrizations.weight.original0").replace(
                "weight_v", "parametrizations.weight.original1"
            ): tensor
            for name, tensor in content[model].items()
        }
    torch.save(content, published.source)
    with torch.no_grad():
        found = published.compute(convert(published.source, tmp_path / "ours"))
    for ours, theirs in zip(found, published.expected, strict=True):
        assert_equals_reference(ours, theirs)


@pytest.mark.parametrize("layout", ["google-jax", "timm", "deit", "mae", "dino", "dinov2", "open-clip"])
def test_what_a_layout_does_not_tell_is_not_lost_in_it(layout: str, tmp_path: Path):
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY, hidden_act="relu"))
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=f"the layout {layout} has no form for this SuiteViTForImageClassification"):
        export_reference(tmp_path / "ours", tmp_path / "back.pth", layout)
    assert not (tmp_path / "back.pth").exists()


@pytest.mark.parametrize("layout", ["transformers", "transformers-v5"])
def test_transformers_opens_what_is_written_of_a_trained_model(layout: str, tmp_path: Path):
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY, hidden_act="relu", layer_norm_eps=1e-3)).eval()
    model.save_pretrained(tmp_path / "ours")
    export_reference(tmp_path / "ours", tmp_path / "theirs", layout)
    theirs = AutoModelForImageClassification.from_pretrained(tmp_path / "theirs")
    assert type(theirs).__name__ == "ViTForImageClassification"
    assert theirs.config.id2label == {0: "cat", 1: "dog"}
    with torch.no_grad():
        assert_equals_reference(model(PIXELS).logits, theirs(PIXELS).logits)
