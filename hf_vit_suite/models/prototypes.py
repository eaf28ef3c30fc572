"""Prototypes: the last layer of DINO's heads, the teacher's targets and the cross-entropy, in chunks of prototypes.

The paper has 65,536 prototypes and compares each with every crop of every image. To save memory, no function of the
loss holds all logits `[R, K]`: each iterates over chunks of the prototypes and recomputes logits that it needs
again. Values and gradients equal those of the unchunked formulas.

Shape letters: see transformer.py; here also S student crops, T teacher crops, R rows (crops x images), K prototypes,
b bottleneck width.
"""

from typing import NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

PROTOTYPES_AT_A_TIME = 4096
SINKHORN_ITERATIONS = 3


class Prototypes(nn.Module):
    """A weight-normalised linear layer without bias: each row has a `direction` and a length, `gain`.

    Source: weight normalisation, Salimans and Kingma 2016, arXiv 1602.07868, eq. 2.
    """

    def __init__(self, config):
        super().__init__()
        self.direction = nn.Parameter(torch.empty(config.num_prototypes, config.head_bottleneck_size))
        self.gain = nn.Parameter(torch.ones(config.num_prototypes, 1), requires_grad=config.head_learned_gain)
        self.has_learned_gain = config.head_learned_gain

    def lengths(self) -> Tensor:
        """`gain`, `[prototypes, 1]`; without gradient if the config fixes it, even if a caller made it trainable."""
        return self.gain if self.has_learned_gain else self.gain.detach()

    def scale(self) -> Tensor:
        """Factor from directions to prototypes, `[prototypes]`: gain / norm of the direction; float32 or wider."""
        length = torch.linalg.vector_norm(self.direction, dim=1, dtype=wide(self.direction.dtype))
        return self.lengths().squeeze(1) / length

    def forward(self, features: Tensor) -> Tensor:
        """L2-normalised `[..., bottleneck]` -> logits `[..., prototypes]`."""
        return wide_product(features, self.direction.T) * self.scale()


def wide(dtype: torch.dtype) -> torch.dtype:
    """Dtype of the softmax: float32, or float64 for float64 input."""
    return torch.promote_types(dtype, torch.float32)


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in float32 or wider, under autocast too.

    bfloat16 rounds a cosine near 1 by up to 0.002; divided by a temperature of 0.04, that shifts the logit by 0.05.
    """
    dtype = wide(left.dtype)
    with torch.autocast(left.device.type, enabled=False):
        return left.to(dtype) @ right.to(dtype)


def chunks_of(prototypes: int) -> list[slice]:
    """Slices of at most `PROTOTYPES_AT_A_TIME` prototypes."""
    return [slice(start, start + PROTOTYPES_AT_A_TIME) for start in range(0, prototypes, PROTOTYPES_AT_A_TIME)]


def scaled_logits(features: Tensor, direction: Tensor, scale: Tensor, chunk: slice) -> Tensor:
    """Products `[rows, bottleneck]` x `[chunk, bottleneck]`, scaled, in float32 or wider."""
    return wide_product(features, direction[chunk].T).mul_(scale[chunk])


class Targets(NamedTuple):
    """The teacher's probabilities in factored form, evaluated for one chunk of prototypes at a time.

    No field has a gradient.

    Args:
        features: `[rows, bottleneck]`, the teacher's L2-normalised features.
        direction: `[prototypes, bottleneck]`, of the teacher's prototypes.
        scale: `[prototypes]`, `Prototypes.scale()` / temperature.
        prototype_bias: `[prototypes]`, added to each row's logits.
        row_bias: `[rows, 1]`, added to each row's logits, so that its probabilities sum to 1.
    """

    features: Tensor
    direction: Tensor
    scale: Tensor
    prototype_bias: Tensor
    row_bias: Tensor

    def log_probabilities(self, chunk: slice) -> Tensor:
        """`[rows, chunk]`, in float32 or wider."""
        logits = scaled_logits(self.features, self.direction, self.scale, chunk)
        return logits.add_(self.prototype_bias[chunk]).add_(self.row_bias)

    def to(self, device: torch.device) -> "Targets":
        return Targets(*(part.to(device) for part in self))

    def normalised(self) -> "Targets":
        """Sets the row bias so that each row is a softmax."""
        total = self.row_bias.new_full(self.row_bias.shape, -torch.inf)
        for chunk in chunks_of(len(self.direction)):
            total = torch.logaddexp(total, self.log_probabilities(chunk).logsumexp(dim=1, keepdim=True))
        return self._replace(row_bias=self.row_bias - total)


def unbiased_targets(features: Tensor, prototypes: Prototypes, temperature: float) -> Targets:
    """Logits / temperature without biases; call `normalised` to make each row sum to 1."""
    scale = prototypes.scale() / temperature
    row_bias = scale.new_zeros(features.shape[0], 1)
    return Targets(features, prototypes.direction, scale, torch.zeros_like(scale), row_bias)


def softmax_targets(
    features: Tensor, prototypes: Prototypes, temperature: float, center: Tensor | None = None
) -> Targets:
    """softmax((logits - center) / temperature) (section 3.1, eq. 1 and "Avoiding collapse").

    Args:
        features: `[rows, bottleneck]`, the teacher's, L2-normalised.
        prototypes: The teacher's.
        temperature: The teacher's; sharpens the targets if below the student's.
        center: `[prototypes]`, subtracted from the logits; default none.
    """
    targets = unbiased_targets(features, prototypes, temperature)
    if center is not None:
        targets = targets._replace(prototype_bias=-center.to(targets.scale) / temperature)
    return targets.normalised()


def sinkhorn_knopp_targets(features: Tensor, prototypes: Prototypes, temperature: float) -> Targets:
    """Assigns the rows of all processes to prototypes so that every prototype gets equal total weight.

    Three iterations, in log space, scale the columns, then the rows of exp(logits / temperature) to equal sums.
    Source: Caron et al. 2020 (SwAV), arXiv 2006.09882, section 3.1; DINOv2, arXiv 2304.07193, section 4.

    Args:
        features: `[rows, bottleneck]`, the teacher's, L2-normalised.
        prototypes: The teacher's.
        temperature: The teacher's.
    """
    targets = unbiased = unbiased_targets(features, prototypes, temperature)
    for _ in range(SINKHORN_ITERATIONS):
        by_row = unbiased._replace(row_bias=targets.row_bias)
        used = [by_row.log_probabilities(chunk).logsumexp(dim=0) for chunk in chunks_of(len(by_row.direction))]
        targets = by_row._replace(prototype_bias=-logsumexp_over_processes(torch.cat(used))).normalised()
    return targets


def in_several_processes() -> bool:
    """Whether training is distributed."""
    return distributed.is_available() and distributed.is_initialized()


def logsumexp_over_processes(values: Tensor) -> Tensor:
    """Elementwise logsumexp of the values of all processes."""
    if not in_several_processes():
        return values
    gathered = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(gathered, values)
    return torch.stack(gathered).logsumexp(dim=0)


def cross_entropy(
    student: Tensor, prototypes: Prototypes, targets: Targets, temperature: float, weights: Tensor
) -> Tensor:
    """Sum of weights x cross-entropy over the (student, teacher) crop pairs of each image (section 3.1, eq. 3).

    Args:
        student: `[images, student crops, bottleneck]`, L2-normalised.
        prototypes: The student's.
        targets: Of `images * teacher crops` rows, the crops of an image adjacent.
        temperature: The student's.
        weights: `[images, student crops, teacher crops]`.

    Returns:
        A scalar; gradients flow to `student`, the directions and, if learned, the gains.
    """
    return CrossEntropy.apply(student, prototypes.direction, prototypes.lengths(), temperature, weights, *targets)


class CrossEntropy(torch.autograd.Function):
    """`cross_entropy` with p the targets, z the student's logits / temperature, w the weights.

    An image's loss is the sum over pairs of w (logsumexp(z) - sum_k p_k z_k). The second term is the dot product of
    the student's features with the mean of the prototypes under p, so p and z are never held for all prototypes.
    """

    @staticmethod
    def forward(
        ctx, student: Tensor, direction: Tensor, gain: Tensor, temperature: float, weights: Tensor, *targets: Tensor
    ) -> Tensor:
        teacher = Targets(*targets)
        length = torch.linalg.vector_norm(direction, dim=1, keepdim=True, dtype=wide(direction.dtype))
        scale = (gain / (length * temperature)).squeeze(1)
        rows = student.flatten(0, 1)
        total = scale.new_full((rows.shape[0], 1), -torch.inf)
        expected = scale.new_zeros(teacher.features.shape[0], student.shape[2])
        for chunk in chunks_of(len(direction)):
            logits = scaled_logits(rows, direction, scale, chunk)
            total = torch.logaddexp(total, logits.logsumexp(dim=1, keepdim=True))
            probabilities = teacher.log_probabilities(chunk).exp_().mul_(scale[chunk])
            expected += wide_product(probabilities, direction[chunk])
        expected = expected.view(*weights.shape[::2], student.shape[2])
        ctx.temperature = temperature
        ctx.save_for_backward(student, direction, length, scale, weights, total, expected, *targets)
        products = wide_product(student, expected.transpose(1, 2))  # (B, S, b) x (B, b, T) -> (B, S, T)
        return (weights * (total.view(*student.shape[:2], 1) - products)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, direction, length, scale, weights, total, expected, *targets = ctx.saved_tensors
        teacher = Targets(*targets)
        weights = weights * gradient
        rows = student.flatten(0, 1)
        row_weights = weights.sum(dim=2).view(-1, 1)
        of_targets = wide_product(weights.transpose(1, 2), student).flatten(0, 1)  # (B * T, b)
        to_student = -wide_product(weights, expected).flatten(0, 1)
        to_direction, to_gain = torch.empty_like(direction), torch.empty_like(length)
        for chunk in chunks_of(len(direction)):
            part = direction[chunk].to(scale.dtype)
            softmax = scaled_logits(rows, direction, scale, chunk).sub_(total).exp_().mul_(row_weights)
            probabilities = teacher.log_probabilities(chunk).exp_()
            to_prototype = wide_product(softmax.T, rows) - wide_product(probabilities.T, of_targets)
            to_student += wide_product(softmax.mul_(scale[chunk]), part)
            # The gradient along a row's direction belongs to its gain, the rest to its direction.
            along = torch.linalg.vecdot(to_prototype, part).unsqueeze(1)
            to_gain[chunk] = along / (length[chunk] * ctx.temperature)
            across = torch.addcmul(to_prototype, part, along / length[chunk] ** 2, value=-1)
            to_direction[chunk] = across.mul_(scale[chunk].unsqueeze(1))
        to_student = to_student.view_as(student).to(student.dtype)
        to_gain = to_gain.to(direction.dtype) if ctx.needs_input_grad[2] else None
        return to_student, to_direction, to_gain, None, None, *(None for _ in targets)


def teacher_statistics(targets: Targets, plain: Targets, center: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Indicators of collapse (section 5.3): to one prototype for all images, or to a uniform distribution.

    Args:
        targets: The student's targets.
        plain: Softmax of the same features without centre.
        center: `[prototypes]`.
        temperature: The teacher's.

    Returns:
        Means over the rows of the entropy of the targets in nats, from 0 to log(prototypes), and of
        KL(softmax(logits / temperature), softmax(center / temperature)) in nats, which is 0 if the teacher's
        predictions are equal for every image.
    """
    center = (center.to(targets.scale) / temperature).log_softmax(dim=0)
    entropy = divergence = 0.0
    for chunk in chunks_of(len(center)):
        log_probabilities = targets.log_probabilities(chunk)
        entropy = entropy - (log_probabilities.exp() * log_probabilities).sum(dim=1)
        log_probabilities = plain.log_probabilities(chunk)
        divergence = divergence + (log_probabilities.exp() * (log_probabilities - center[chunk])).sum(dim=1)
    return entropy.mean(), divergence.mean()


class Center(nn.Module):
    """The moving average of the teacher's logits (section 3.1, eq. 4), over all processes.

    Logits are linear in the features, so each step accumulates only the sum of its features.
    """

    def __init__(self, config):
        super().__init__()
        self.momentum = config.center_momentum
        self.register_buffer("logits", torch.zeros(config.num_prototypes))
        self.seen: Tensor | None = None  # sum of the features since the last update, and their number

    @torch.no_grad()
    def collect(self, features: Tensor) -> None:
        """Accumulates features `[rows, bottleneck]` until the next update."""
        total = features.sum(dim=0, dtype=wide(features.dtype))
        seen = torch.cat((total, total.new_tensor([features.shape[0]])))
        self.seen = seen if self.seen is None else self.seen + seen

    @torch.no_grad()
    def update(self, prototypes: Prototypes) -> None:
        """Updates the centre with the collected features; without any it stays unchanged."""
        if self.seen is None:
            return
        seen, self.seen = self.seen, None
        if in_several_processes():
            distributed.all_reduce(seen)
        total, number = seen.tensor_split([-1])
        if number > 0:
            mean = prototypes((total / number).to(prototypes.direction.dtype))
            self.logits.lerp_(mean.to(self.logits), 1 - self.momentum)
