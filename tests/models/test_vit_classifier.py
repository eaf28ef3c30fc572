"""The classifier's losses against their definitions, its heads, and how a new model starts."""

import pytest
import torch
import torch.nn.functional as F
from references import assert_equals_reference, randomise

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def classifier(**fields) -> SuiteViTForImageClassification:
    """A tiny classifier with random weights."""
    return randomise(SuiteViTForImageClassification(SuiteViTConfig(**TINY, **fields)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("problem_type", "labels", "define"),
    [
        (None, torch.tensor([2, 0]), lambda z, y: -z.log_softmax(-1)[torch.arange(2), y].mean()),
        (None, torch.tensor([[2], [0]]), lambda z, y: -z.log_softmax(-1)[torch.arange(2), y.squeeze(1)].mean()),
        (None, torch.tensor([[0.0, 1, 1], [1, 0, 0]]), lambda z, y: F.binary_cross_entropy(z.sigmoid(), y)),
        (
            "single_label_classification",
            torch.tensor([[0.2, 0.8, 0], [1, 0, 0]]),
            lambda z, y: -(y * z.log_softmax(-1)).sum(-1).mean(),
        ),
        ("regression", torch.tensor([[1.0, 2, 3], [4, 5, 6]]), lambda z, y: (z - y).square().mean()),
        (
            "multi_label_classification",
            torch.tensor([[1, 1, 0], [0, 0, 1]]),
            lambda z, y: -(y * z.sigmoid().log() + (1 - y) * (1 - z.sigmoid()).log()).mean(),
        ),
    ],
    ids=["class numbers", "a column of them", "floats", "probabilities", "regression", "several labels"],
)
@pytest.mark.parametrize("distilled", [False, True])
def test_loss_equals_its_definition(problem_type: str | None, labels: torch.Tensor, define, distilled: bool):
    model = classifier(problem_type=problem_type, num_labels=3, use_distillation_token=distilled)
    outputs = model(torch.randn(2, 3, 32, 32), labels=labels)
    assert_equals_reference(outputs.loss, define(outputs.logits, labels))


@torch.no_grad()
def test_classifier_without_labels_gives_the_features():
    model = classifier(num_labels=0)
    pixels = torch.randn(2, 3, 32, 32)
    assert_equals_reference(model(pixels).logits, model.vit(pixels).pooler_output)


@torch.no_grad()
@pytest.mark.parametrize("distilled", [False, True])
def test_last_block_computes_only_the_tokens_that_the_heads_read(distilled: bool):
    model = classifier(use_distillation_token=distilled)
    tokens = []
    for block in model.vit.encoder.blocks:
        block.mlp.register_forward_hook(lambda module, arguments, output: tokens.append(output.shape[1]))
    model(torch.randn(2, 3, 32, 32))
    heads = 1 + distilled
    assert tokens == [heads + 16, heads]


def test_new_weights_have_the_configs_spread_and_new_biases_are_zero():
    fields = {"initializer_range": 0.05, "layer_scale_init_value": 0.3, "num_register_tokens": 64}
    fields |= {"use_distillation_token": True, "use_mask_token": True}
    model = SuiteViTForImageClassification(SuiteViTConfig(**{**TINY, "hidden_size": 128}, **fields))
    for name, weight in model.named_parameters():
        if name.endswith("gamma"):
            assert (weight == 0.3).all(), name
        elif ".norm" in name and name.endswith("weight"):
            assert (weight == 1).all(), name
        elif name.endswith(("bias", "mask_token")):
            assert not weight.any(), name
        elif name.endswith(("cls_token", "distillation_token")):  # 128 draws: a quarter is four standard deviations
            assert weight.std().item() == pytest.approx(0.05, rel=0.25), name
        else:  # at least 256 draws, most of them thousands
            assert weight.std().item() == pytest.approx(0.05, rel=0.15), name


def test_weights_missing_from_a_folder_start_as_in_a_new_model(tmp_path):
    saved = classifier(num_labels=3)
    saved.save_pretrained(tmp_path)
    added = {"layer_scale_init_value": 0.3, "num_register_tokens": 16, "initializer_range": 0.05}
    reopened = SuiteViTForImageClassification.from_pretrained(tmp_path, **added)
    weights = saved.state_dict()
    for name, weight in reopened.state_dict().items():
        if name.endswith("gamma"):
            assert (weight == 0.3).all(), name
        elif name.endswith("register_tokens"):  # 512 draws
            assert weight.std().item() == pytest.approx(0.05, rel=0.15), name
        else:
            assert torch.equal(weight, weights[name]), name
