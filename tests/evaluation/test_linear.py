"""Linear probes against scikit-learn and against heads trained alone."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from hf_vit_suite.evaluation.features import Features
from hf_vit_suite.evaluation.linear import LEARNING_RATES, linear_probe, train_heads


@pytest.fixture(scope="module")
def digits() -> dict[str, Features]:
    """scikit-learn's digits: 64 pixels as features."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    values, labels = torch.tensor(data.data).float()[order], torch.tensor(data.target)[order]
    ends = {"train": (0, 1200), "validation": (1200, 1500), "test": (1500, None)}
    return {split: Features(values[slice(*part)], labels[slice(*part)]) for split, part in ends.items()}


@pytest.fixture(scope="module")
def report(digits: dict[str, Features]) -> dict:
    """A probe of them."""
    return linear_probe(**digits, num_labels=10, steps=2000)


def test_accuracy_is_that_of_scikit_learns_logistic_regression(digits: dict[str, Features], report: dict):
    scaler = StandardScaler().fit(digits["train"].values)
    reference = LogisticRegression(max_iter=1000).fit(scaler.transform(digits["train"].values), digits["train"].labels)
    expected = reference.score(scaler.transform(digits["test"].values), digits["test"].labels)
    assert report["accuracy"] == pytest.approx(expected, abs=0.02)
    assert report["accuracy"] > 0.93
    assert report["top5_accuracy"] >= report["accuracy"]


def test_best_rate_on_the_validation_images_is_kept(report: dict):
    assert list(report["sweep"]) == list(LEARNING_RATES)
    assert report["validation_accuracy"] == max(report["sweep"].values())
    assert report["sweep"][report["learning_rate"]] == report["validation_accuracy"]
    assert min(report["sweep"].values()) < report["validation_accuracy"]  # the rate matters
    assert report["learning_rate"] not in (LEARNING_RATES[0], LEARNING_RATES[-1])  # the sweep is wide enough
    assert report["validation_top5_accuracy"] >= report["validation_accuracy"]
    assert 0 < report["validation_loss"] < 0.5


def test_scale_and_offset_of_the_features_change_nothing(digits: dict[str, Features]):
    moved = {split: Features(500 * features.values - 300, features.labels) for split, features in digits.items()}
    expected, found = (linear_probe(**splits, num_labels=10, steps=100) for splits in (digits, moved))
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-2)
    assert found["learning_rate"] == expected["learning_rate"]


def test_constant_features_do_no_harm(digits: dict[str, Features]):
    padded = {
        split: Features(F.pad(features.values, (0, 3), value=7.0), features.labels)
        for split, features in digits.items()
    }
    assert linear_probe(**padded, num_labels=10, steps=300)["accuracy"] > 0.85


@pytest.mark.parametrize("position", [0, 2])
def test_head_learns_as_if_it_were_alone(digits: dict[str, Features], position: int):
    values, labels = digits["train"].values / 16, digits["train"].labels
    rates, batch_size, steps = (1e-3, 0.01, 0.1), 128, 30
    heads = train_heads(values, labels, 10, rates, batch_size, steps, seed=3)

    generator = torch.Generator().manual_seed(3)
    first = nn.init.normal_(torch.empty(30, 64), std=0.01, generator=generator).unflatten(0, (3, 10))[position]
    weight, bias = first.clone().requires_grad_(), torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=rates[position] * batch_size / 256, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(values), (batch_size,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(F.linear(values[batch], weight, bias), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
    torch.testing.assert_close(heads.weight.unflatten(0, (3, 10))[position], weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(heads.bias.unflatten(0, (3, 10))[position], bias, rtol=1e-5, atol=1e-6)


def test_seed_decides_the_result(digits: dict[str, Features]):
    first, again, other = (linear_probe(**digits, num_labels=10, steps=20, seed=seed)["loss"] for seed in (0, 0, 1))
    assert first == again
    assert first != other
