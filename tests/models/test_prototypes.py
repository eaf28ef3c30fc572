"""DINO's prototypes in chunks beside the plain formulas and lightly's, float32 within 1e-5 of the largest value."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.loss.swav_loss import sinkhorn
from references import assert_equals_reference
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vit_suite import SuiteDINOConfig
from hf_vit_suite.models import prototypes as module
from hf_vit_suite.models.prototypes import (
    Center,
    Prototypes,
    cross_entropy,
    sinkhorn_knopp_targets,
    softmax_targets,
    teacher_statistics,
)

IMAGES, STUDENT_CROPS, TEACHER_CROPS, WIDTH, PROTOTYPES = 3, 5, 2, 16, 150
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CONFIG = SuiteDINOConfig(num_prototypes=PROTOTYPES, head_bottleneck_size=WIDTH, head_learned_gain=True)


@pytest.fixture(autouse=True)
def several_chunks_of_which_the_last_is_short(monkeypatch):
    monkeypatch.setattr(module, "PROTOTYPES_AT_A_TIME", 64)


def random_prototypes(seed: int, config: SuiteDINOConfig = CONFIG) -> Prototypes:
    """Prototypes of various lengths."""
    generator = torch.Generator().manual_seed(seed)
    layer = Prototypes(config)
    with torch.no_grad():
        layer.direction.copy_(torch.randn(layer.direction.shape, generator=generator))
        layer.gain.copy_(0.5 + torch.rand(layer.gain.shape, generator=generator))
    return layer.requires_grad_()


def random_features(*shape: int, seed: int) -> Tensor:
    """Points on the sphere."""
    return F.normalize(torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain_logits(features: Tensor, layer: Prototypes) -> Tensor:
    """Logits whole, from the definition of weight normalisation, float64."""
    direction, gain = layer.direction.double(), layer.gain.double()
    return features.double() @ (gain * direction / direction.norm(dim=1, keepdim=True)).T


def pair_weights() -> Tensor:
    """Every pair but those of the same crop, its mean."""
    weights = torch.ones(STUDENT_CROPS, TEACHER_CROPS).fill_diagonal_(0)
    return (weights / weights.sum() / IMAGES).expand(IMAGES, -1, -1)


@pytest.fixture
def problem() -> dict:
    """Students and teachers of three images, with a centre."""
    return {
        "student": random_features(IMAGES, STUDENT_CROPS, seed=0).requires_grad_(),
        "of_student": random_prototypes(1),
        "teacher": random_features(IMAGES, TEACHER_CROPS, seed=2),
        "of_teacher": random_prototypes(3).requires_grad_(False),
        "center": 0.1 * torch.randn(PROTOTYPES, generator=torch.Generator().manual_seed(4)),
    }


def chunked_loss(problem: dict) -> Tensor:
    """The loss as training computes it."""
    targets = softmax_targets(
        problem["teacher"].flatten(0, 1), problem["of_teacher"], TEACHER_TEMPERATURE, problem["center"]
    )
    return cross_entropy(problem["student"], problem["of_student"], targets, STUDENT_TEMPERATURE, pair_weights())


def plain_loss(problem: dict) -> Tensor:
    """The paper's algorithm 1 with everything held, in float64: a loop over pairs of crops."""
    student = plain_logits(problem["student"], problem["of_student"]) / STUDENT_TEMPERATURE
    teacher = (plain_logits(problem["teacher"], problem["of_teacher"]) - problem["center"]) / TEACHER_TEMPERATURE
    losses = [
        -(teacher[:, t].softmax(dim=-1) * student[:, v].log_softmax(dim=-1)).sum(dim=-1).mean()
        for t in range(TEACHER_CROPS)
        for v in range(STUDENT_CROPS)
        if t != v
    ]
    return sum(losses) / len(losses)


def gradients(loss: Tensor, problem: dict) -> tuple[Tensor, ...]:
    """Of everything that learns."""
    layer = problem["of_student"]
    return torch.autograd.grad(loss, (problem["student"], layer.direction, layer.gain))


def test_loss_and_gradients_equal_the_plain_form(problem: dict):
    found, expected = chunked_loss(problem), plain_loss(problem)
    assert_equals_reference(found, expected.float())
    for one, other in zip(gradients(found, problem), gradients(expected, problem), strict=True):
        assert_equals_reference(one, other)


def test_gradients_equal_finite_differences():
    """In float64, with fixed gains and without."""
    config = SuiteDINOConfig(num_prototypes=70, head_bottleneck_size=4)
    layer = random_prototypes(0, config).double()
    teacher = F.normalize(torch.randn(4, 4, dtype=torch.float64), dim=-1)
    targets = softmax_targets(teacher, random_prototypes(1, config).double().requires_grad_(False), 0.3)
    weights = torch.rand(2, 3, 2, dtype=torch.float64)
    student = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def loss(student: Tensor, direction: Tensor, gain: Tensor) -> Tensor:
        return module.CrossEntropy.apply(student, direction, gain, 0.2, weights, *targets)

    assert torch.autograd.gradcheck(loss, (student, layer.direction, layer.gain), fast_mode=True)
    assert torch.autograd.gradcheck(loss, (student, layer.direction, layer.gain.detach()), fast_mode=True)


def test_loss_gradients_and_centre_equal_lightlys(problem: dict):
    reference = DINOLoss(PROTOTYPES, TEACHER_TEMPERATURE, TEACHER_TEMPERATURE, 0, STUDENT_TEMPERATURE)
    reference.center.copy_(problem["center"])
    center = Center(CONFIG)
    center.logits.copy_(problem["center"])
    crops = problem["of_student"](problem["student"]).unbind(1)
    expected = reference(list(problem["of_teacher"](problem["teacher"]).unbind(1)), list(crops))
    found = chunked_loss(problem)
    assert_equals_reference(found, expected)
    for one, other in zip(gradients(found, problem), gradients(expected, problem), strict=True):
        assert_equals_reference(one, other)
    center.collect(problem["teacher"].flatten(0, 1))
    center.update(problem["of_teacher"])
    assert_equals_reference(center.logits, reference.center.flatten())


def test_logits_equal_torchs_weight_normalised_layer():
    layer = random_prototypes(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the form that the paper's checkpoints have
        reference = torch.nn.utils.weight_norm(torch.nn.Linear(WIDTH, PROTOTYPES, bias=False))
    reference.load_state_dict({"weight_v": layer.direction, "weight_g": layer.gain})
    features = random_features(7, seed=1)
    assert_equals_reference(layer(features), reference(features))


def test_sinkhorn_knopp_equals_lightlys(problem: dict):
    features = problem["teacher"].flatten(0, 1)
    targets = sinkhorn_knopp_targets(features, problem["of_teacher"], 0.05)
    expected = sinkhorn(problem["of_teacher"](features), iterations=3, epsilon=0.05)
    assert_equals_reference(targets.log_probabilities(slice(None)).exp(), expected)


def test_masks_weigh_single_rows():
    """Rows of their own, each with a weight, as the patch loss has them."""
    student, teacher = random_features(9, 1, seed=0), random_features(9, seed=1)
    of_student, of_teacher = random_prototypes(2), random_prototypes(3).requires_grad_(False)
    weights = torch.rand(9)
    targets = softmax_targets(teacher, of_teacher, TEACHER_TEMPERATURE)
    found = cross_entropy(student, of_student, targets, STUDENT_TEMPERATURE, weights.view(-1, 1, 1))
    probabilities = (plain_logits(teacher, of_teacher) / TEACHER_TEMPERATURE).softmax(dim=-1)
    losses = (plain_logits(student[:, 0], of_student) / STUDENT_TEMPERATURE).log_softmax(dim=-1) * -probabilities
    assert_equals_reference(found, (losses.sum(dim=-1) * weights).sum().float())


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation gave."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        outputs = function(*arguments, **(options or {}))
        for tensor in outputs if isinstance(outputs, tuple | list) else (outputs,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return outputs


@pytest.mark.parametrize("make_targets", [softmax_targets, sinkhorn_knopp_targets])
def test_nothing_is_ever_larger_than_a_chunk_of_logits_or_the_prototypes(make_targets):
    images, student_crops = 100, 10
    of_student, of_teacher = random_prototypes(0), random_prototypes(1).requires_grad_(False)
    student = random_features(images, student_crops, seed=2).requires_grad_()
    teacher = random_features(images * 2, seed=3)
    weights = torch.ones(images, student_crops, 2)
    with LargestTensor() as largest:
        targets = make_targets(teacher, of_teacher, TEACHER_TEMPERATURE)
        cross_entropy(student, of_student, targets, STUDENT_TEMPERATURE, weights).backward()
        teacher_statistics(targets, targets, torch.zeros(PROTOTYPES), TEACHER_TEMPERATURE)
    assert images * student_crops * 64 == largest.elements < images * student_crops * PROTOTYPES


def test_loss_in_bfloat16_is_near(problem: dict):
    expected = chunked_loss(problem)
    of_expected = gradients(expected, problem)
    problem |= {name: problem[name].detach().bfloat16() for name in ("student", "teacher")}
    problem["student"].requires_grad_()
    found = chunked_loss(problem)
    assert found.dtype == torch.float32
    assert_equals_reference(found, expected, tolerance=0.02)
    for one, other in zip(gradients(found, problem), of_expected, strict=True):
        assert_equals_reference(one.float(), other, tolerance=0.05)


def statistics(features: Tensor, layer: Prototypes, center: Tensor) -> tuple[float, float]:
    """As training logs them."""
    targets = softmax_targets(features, layer, TEACHER_TEMPERATURE, center)
    plain = softmax_targets(features, layer, TEACHER_TEMPERATURE)
    return tuple(value.item() for value in teacher_statistics(targets, plain, center, TEACHER_TEMPERATURE))


def test_statistics_equal_torchs_distributions(problem: dict):
    features, layer, center = problem["teacher"].flatten(0, 1), problem["of_teacher"], problem["center"]
    logits = plain_logits(features, layer)
    found = statistics(features, layer, center)
    targets, plain, of_center = (
        torch.distributions.Categorical(logits=values / TEACHER_TEMPERATURE)
        for values in (logits - center, logits, center.double())
    )
    expected = (targets.entropy().mean(), torch.distributions.kl_divergence(plain, of_center).mean())
    assert found == pytest.approx([value.item() for value in expected], rel=1e-5)


def test_statistics_show_a_collapse():
    layer = random_prototypes(0).requires_grad_(False)
    same = random_features(1, seed=1).expand(8, -1)
    entropy, divergence = statistics(same, layer, layer(same[0]))
    assert entropy == pytest.approx(math.log(PROTOTYPES), rel=1e-5)
    assert divergence == pytest.approx(0, abs=1e-4)
    various = random_features(8, seed=1)
    entropy, divergence = statistics(various, layer, layer(various.mean(dim=0)))
    assert entropy < 0.9 * math.log(PROTOTYPES)
    assert divergence > 0.5


def test_centre_moves_once_by_all_that_was_seen():
    """Two halves of a batch, as accumulation gives them, move it as the whole does."""
    layer, features = random_prototypes(0).requires_grad_(False), random_features(8, seed=1)
    whole, halves = Center(CONFIG), Center(CONFIG)
    whole.collect(features)
    whole.update(layer)
    for half in features.split((3, 5)):
        halves.collect(half)
    halves.update(layer)
    assert_equals_reference(halves.logits, whole.logits)
    assert_equals_reference(whole.logits, 0.1 * plain_logits(features, layer).mean(dim=0).float())
    before = whole.logits.clone()
    whole.update(layer)
    assert torch.equal(whole.logits, before)
