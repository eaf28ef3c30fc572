"""Deletion and insertion of patches."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import auc

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification
from hf_vit_suite.evaluation.faithfulness import (
    METHODS,
    RANDOM,
    faithfulness_report,
    method_curves,
    perturbation_curves,
)


def small_classifier(**fields) -> SuiteViTForImageClassification:
    """A classifier of ten labels for images of 16 pixels."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
    return SuiteViTForImageClassification(
        SuiteViTConfig(**sizes, image_size=16, patch_size=4, num_channels=1, num_labels=10, **fields)
    )


def test_curves_go_from_the_whole_image_to_none_of_it_and_back():
    model, pixels = small_classifier(initializer_range=0.2).eval(), torch.randn(2, 1, 16, 32)
    maps = torch.randn(2, 4, 8)
    deletion, insertion = perturbation_curves(model, pixels, maps, steps=4)
    with torch.no_grad():
        whole = model(pixels).logits.softmax(dim=-1)
        predicted = whole.argmax(dim=-1)
        is_high = maps > maps.flatten(1).median(dim=1).values.view(2, 1, 1)
        half = pixels.masked_fill(is_high.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2).unsqueeze(1), 0)
        seen = {"whole": pixels, "half": half, "none": torch.zeros_like(pixels)}
        expected = {
            name: model(images).logits.softmax(dim=-1)[torch.arange(2), predicted] for name, images in seen.items()
        }
    torch.testing.assert_close(deletion[:, 0], expected["whole"])
    torch.testing.assert_close(deletion[:, 2], expected["half"])
    torch.testing.assert_close(deletion[:, 4], expected["none"])
    torch.testing.assert_close(insertion[:, 0], expected["none"])
    torch.testing.assert_close(insertion[:, 4], expected["whole"])


def test_report_is_the_mean_area_under_each_images_curve():
    curves = torch.rand(5, 2, 2, 9)
    report = faithfulness_report(curves, ["relevance", RANDOM])
    shares = torch.linspace(0, 1, 9)
    for number, method in enumerate(("relevance", RANDOM)):
        for kind, name in enumerate(("deletion", "insertion")):
            areas = [auc(shares, image[number, kind]) for image in curves]
            assert report[method][name] == pytest.approx(sum(areas) / 5, rel=1e-5)
            assert report[method][f"{name}_curve"] == pytest.approx(curves[:, number, kind].mean(dim=0).tolist())


@pytest.fixture(scope="module")
def trained() -> tuple[SuiteViTForImageClassification, torch.Tensor]:
    """A classifier trained on handwritten digits, and digits that it has not seen."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    images, labels = torch.nn.functional.interpolate(images, scale_factor=2), torch.tensor(digits.target)
    model = small_classifier(initializer_range=0.1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(400):
        rows = torch.randint(0, 1500, (64,))
        model(images[rows], labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        assert (model(images[1500:]).logits.argmax(dim=-1) == labels[1500:]).float().mean() > 0.85
    return model, images[1500:1600]


def test_relevance_beats_random_order_clearly_on_a_trained_model(trained):
    model, images = trained
    methods = (*METHODS, RANDOM)
    curves = method_curves(model, images, methods, torch.Generator().manual_seed(0), steps=8)
    report = faithfulness_report(curves, methods)
    for method in ("relevance", "gradient"):
        assert report[method]["deletion"] < report[RANDOM]["deletion"] - 0.07
        assert report[method]["insertion"] > report[RANDOM]["insertion"] + 0.05
