"""Distillation against the paper's equations, with teachers that see the image their own way."""

import numpy as np
import pytest
import torch
from PIL import Image
from references_of_training import save_tiny_classifier
from scipy.special import log_softmax, softmax
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_vit_suite.training.distillation import Teacher, distillation_loss

LABELS = ["blue", "green", "red"]


def test_soft_loss_equals_the_paper_in_float64():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)) * 2
    temperature = 3.0
    p, log_p = softmax(teacher / temperature, axis=1), log_softmax(teacher / temperature, axis=1)
    divergence = (p * (log_p - log_softmax(student / temperature, axis=1))).sum()
    # Equation 2 has the divergence of an image; the authors' code averages it over images and labels.
    expected = temperature**2 * divergence / student.size
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), "soft", temperature)
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hard_loss_equals_the_paper_in_float64():
    student, teacher = np.random.default_rng(0).normal(size=(2, 5, 3)) * 2
    expected = -log_softmax(student, axis=1)[np.arange(5), teacher.argmax(axis=1)].mean()
    found = distillation_loss(torch.tensor(student), torch.tensor(teacher), "hard", 3.0)
    assert found.item() == pytest.approx(expected, rel=1e-12)


@torch.no_grad()
def test_teacher_gets_its_own_normalisation_size_and_label_order(tmp_path):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label={0: "red", 1: "blue", 2: "green"},
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    statistics = {"image_mean": [0.4, 0.3, 0.2], "image_std": [0.2, 0.3, 0.4]}
    teacher_processor = ViTImageProcessor(size={"height": 32, "width": 32}, **statistics)
    teacher_processor.save_pretrained(tmp_path)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    student_processor = ViTImageProcessor(size={"height": 16, "width": 16})
    found = Teacher(str(tmp_path), LABELS, student_processor)(
        student_processor(image, return_tensors="pt").pixel_values
    )
    small = teacher_processor(image, return_tensors="pt", do_resize=False).pixel_values
    enlarged = torch.nn.functional.interpolate(small, size=(32, 32), mode="bicubic", antialias=True)
    model = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(found, model(enlarged).logits[:, [1, 2, 0]], rtol=1e-4, atol=1e-5)


def test_teacher_of_other_labels_is_refused(tmp_path):
    save_tiny_classifier(tmp_path)
    with pytest.raises(
        ValueError, match=r"knows other labels .* 3 \(blue, green, red, \.\.\.\), the data 2 \(cat, dog"
    ):
        Teacher(str(tmp_path), ["cat", "dog"], ViTImageProcessor())
