"""Classification reports against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torchmetrics.functional.classification import multiclass_calibration_error
from transformers import PretrainedConfig

from hf_vit_suite.evaluation.classification import calibration_bins, classification_report, model_labels

NAMES = {number: f"label {number}" for number in range(8)}


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right about half the time, and labels of which one does not occur."""
    labels = torch.randint(7, (400,))
    return 3 * torch.randn(400, 8) + 3 * torch.nn.functional.one_hot(labels, 8), labels


def test_report_equals_scikit_learns(predictions):
    logits, labels = predictions
    report = classification_report(logits, labels, NAMES)
    predicted = logits.argmax(dim=1)
    expected = sklearn.metrics.classification_report(labels, predicted, labels=range(7), output_dict=True)
    assert list(report["per_class"]) == [f"label {number}" for number in range(7)]
    for number in range(7):
        found, reference = report["per_class"][f"label {number}"], expected[str(number)]
        assert found["images"] == reference["support"]
        for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert found[name] == pytest.approx(reference[theirs])
    assert report["accuracy"] == pytest.approx((predicted == labels).double().mean().item())
    matrix = np.array(report["confusion_matrix"])
    assert matrix.shape == (8, 8)
    assert matrix[2, 3] == ((labels == 2) & (predicted == 3)).sum()


def test_calibration_error_equals_torchmetrics(predictions):
    logits, labels = predictions
    # Small logits that are right and large ones that are wrong: bins then err both ways and don't just add up.
    mixed = torch.where(torch.arange(400)[:, None] % 2 == 0, logits * 0.3, logits.roll(1, dims=1) * 2)
    for values in (logits * 0.1, logits * 5, mixed):
        expected = multiclass_calibration_error(values.double().softmax(dim=-1), labels, 8, n_bins=15)
        report = classification_report(values, labels, NAMES)
        assert report["calibration_error"] == pytest.approx(expected.item(), abs=1e-6)
        assert sum(row["share"] for row in report["calibration"]) == pytest.approx(1)


def test_calibration_bins_hold_what_falls_into_them():
    # Confidences 0.62 and 0.98, the first right once of two times, the second always.
    logits = torch.tensor([[0.62, 0.38]] * 2 + [[0.02, 0.98]] * 2).log()
    rows = calibration_bins(logits, torch.tensor([0, 1, 1, 1]), bins=10)
    assert [(round(row["edge"], 6), row["share"], row["accuracy"]) for row in rows] == [(0.7, 0.5, 0.5), (1, 0.5, 1)]
    assert [row["confidence"] for row in rows] == pytest.approx([0.62, 0.98], abs=1e-6)


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    rows = calibration_bins(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), bins=2)
    assert [(row["edge"], row["share"]) for row in rows] == [(0.5, 1)]


def test_many_labels_have_no_matrix():
    names = {number: str(number) for number in range(101)}
    report = classification_report(torch.randn(10, 101), torch.arange(10), names)
    assert "confusion_matrix" not in report


def test_labels_are_matched_by_name():
    config = PretrainedConfig(id2label={0: "dog", 1: "owl", 2: "cat"})
    assert model_labels(config, ["owl", "cat"], [0, 1, 1, 0]).tolist() == [1, 2, 2, 1]
    assert model_labels(config, ["cat", "cow"], [0, 0]).tolist() == [2, 2]  # no image is a cow
    with pytest.raises(ValueError, match=r"does not know 1 of the data's labels \(cow\); it knows dog, owl, cat"):
        model_labels(config, ["cat", "cow"], [0, 1])


def test_name_that_several_labels_share_is_refused_where_the_data_uses_it():
    config = PretrainedConfig()
    config.id2label = {0: "crane", 1: "cat", 2: "crane"}
    with pytest.raises(ValueError, match=r"several labels of the same name.*crane"):
        model_labels(config, ["cat", "crane"], [0, 1])
    assert model_labels(config, ["cat", "crane"], [0, 0]).tolist() == [1, 1]
    assert model_labels(config, ["crane", "cat", "crane"], [2, 1, 0]).tolist() == [2, 1, 0]  # the model's own order
