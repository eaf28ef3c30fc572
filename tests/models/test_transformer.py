"""The trunk's parts."""

import pytest
import torch
import torch.nn.functional as F
from references import assert_equals_reference
from transformers.activations import ACT2FN

from hf_vit_suite import SuiteViTConfig, SuiteViTModel
from hf_vit_suite.models.transformer import Block, DropPath, Encoder, QuickGELU, eager_attention


@pytest.mark.parametrize("kind", ["plain", "masked", "causal"])
def test_eager_attention_equals_torchs_with_any_scale_and_mask(kind: str):
    query, key, value = torch.randn(3, 2, 4, 5, 8).unbind(0)
    mask = torch.randn(2, 1, 5, 5) if kind == "masked" else None
    layer = torch.nn.Identity()
    layer.is_causal = kind == "causal"
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, is_causal=layer.is_causal)
    found, weights = eager_attention(layer, query, key, value, mask, scaling=0.3)
    assert_equals_reference(found, expected.transpose(1, 2), tolerance=1e-6)
    assert_equals_reference((weights @ value), expected, tolerance=1e-6)


def test_quick_gelu_is_transformers_and_keeps_one_tensor():
    found, expected = (torch.linspace(-8, 8, 1001, requires_grad=True) for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        ours = QuickGELU()(found)
    theirs = ACT2FN["quick_gelu"](expected)
    assert_equals_reference(ours, theirs, tolerance=1e-6)
    ours.sum().backward()
    theirs.sum().backward()
    assert_equals_reference(found.grad, expected.grad, tolerance=1e-6)
    assert len(kept) == 1


@pytest.mark.parametrize("dropped", ["drop_path", "dropout"])
@pytest.mark.parametrize("mlp_type", ["gelu", "swiglu"])
def test_block_whose_branches_are_all_dropped_is_the_identity_in_training_alone(dropped: str, mlp_type: str):
    block = Block(SuiteViTConfig(hidden_size=16, num_attention_heads=2, intermediate_size=32, mlp_type=mlp_type))
    setattr(block, dropped, DropPath(1 - 1e-9) if dropped == "drop_path" else torch.nn.Dropout(1.0))
    hidden_states = torch.randn(3, 5, 16)
    assert torch.equal(block.train()(hidden_states)[0], hidden_states)
    assert not torch.isclose(block.eval()(hidden_states)[0], hidden_states).any(dim=-1).all()


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    drop_path = DropPath(0.3).train()
    kept = drop_path(torch.ones(20_000, 2, 3))
    values = kept.unique()
    torch.testing.assert_close(values, torch.tensor([0.0, 1 / 0.7]))
    assert (kept == kept[:, :1, :1]).all()
    # Five standard deviations of a mean of 20,000 draws with variance 0.3 / 0.7.
    assert abs(kept.mean().item() - 1) < 5 * (0.3 / 0.7 / 20_000) ** 0.5


def test_drop_path_is_the_identity_in_evaluation():
    hidden_states = torch.randn(4, 2, 3)
    assert DropPath(0.9).eval()(hidden_states) is hidden_states


def test_drop_path_grows_linearly_with_depth():
    encoder = Encoder(SuiteViTConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=5, drop_path_rate=0.2))
    assert [block.drop_path.rate for block in encoder.blocks] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])


def test_unknown_attention_layer_is_refused():
    config = SuiteViTConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, image_size=32)
    with pytest.raises(ValueError, match=r"attention_layers must be from -2 to 1, got \[2\]"):
        SuiteViTModel(config)(torch.zeros(1, 3, 32, 32), output_attentions=True, attention_layers=[2])


def test_dropout_of_attention_weights_acts_in_training_alone():
    config = SuiteViTConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, image_size=32, attention_probs_dropout_prob=0.5
    )
    model, pixels = SuiteViTModel(config), torch.randn(1, 3, 32, 32)
    assert not torch.equal(model.train()(pixels).pooler_output, model(pixels).pooler_output)
    assert torch.equal(model.eval()(pixels).pooler_output, model(pixels).pooler_output)
