"""A training step of DINO's ViT-S/16 beside the plain loss and beside lightly's parts: time in turn, peak memory.

    python benchmarks/dino.py [--batch 4] [--rounds 5] [--threads 2]

Crops are 2 x 224 and 8 x 96 pixels, prototypes 65,536. Three ways take a step (teacher, student, loss, backward, each
weight's gradient clipped, fused AdamW, moving average) on the same crops:

- ours: `SuiteDINOForPreTraining`, whose loss goes through the prototypes in chunks;
- plain: the same backbone and weights, with torch's weight_norm and the loop over all pairs of algorithm 1;
- lightly: timm's backbone with lightly's DINOProjectionHead, DINOLoss and update_momentum.

Before they are timed, the first two give the same loss. `head and loss` is what follows the backbone alone, forward
and backward. Memory is the peak beyond the interpreter with its imports (and for the head and the loss, with the
weights), each way in a process of its own.
"""

import argparse
import warnings
from collections.abc import Callable

import timm
import torch
from lightly.loss import DINOLoss
from lightly.models.modules import DINOProjectionHead
from lightly.models.utils import update_momentum
from measuring import median_milliseconds, peak_mebibytes, printed_by
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from hf_vit_suite import SuiteDINOForPreTraining, preset_config

WAYS = ("hf_vit_suite", "plain", "lightly")
TEMPERATURE, MOMENTUM, LARGEST_NORM = 0.04, 0.996, 3.0


def crops_of(batch: int) -> tuple[Tensor, Tensor]:
    """Global and local crops, `[batch, crops, channels, height, width]`."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, 2, 3, 224, 224, generator=generator),
        torch.randn(batch, 8, 3, 96, 96, generator=generator),
    )


class Ours:
    """The suite's model."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = SuiteDINOForPreTraining(preset_config("dino_vits16")).train()
        self.learned = [weight for weight in self.model.parameters() if weight.requires_grad]

    def loss(self, whole: Tensor, local: Tensor) -> Tensor:
        return self.model(whole, local, teacher_temperature=TEMPERATURE).loss

    def loss_of_features(self, student: Tensor, teacher: Tensor) -> Tensor:
        model = self.model
        with torch.no_grad():
            targets = model.make_targets(
                model.teacher_head.project(teacher.transpose(0, 1).flatten(0, 1)), model.center, TEMPERATURE
            )
        return model.class_loss(student.transpose(0, 1), targets)

    def update_teacher(self) -> None:
        self.model.update_teacher(MOMENTUM)


class Plain:
    """Backbone and head of the suite's model, everything after them as algorithm 1 has it."""

    def __init__(self):
        model = Ours().model
        self.backbones = (model.student, model.vit)
        self.heads = (self.with_weight_norm(model.student_head), self.with_weight_norm(model.teacher_head))
        for part in (self.backbones[1], self.heads[1]):
            part.requires_grad_(False)
        self.learned = [*self.backbones[0].parameters(), *self.heads[0].parameters()]
        self.center = torch.zeros(model.config.num_prototypes)

    @staticmethod
    def with_weight_norm(head: nn.Module) -> nn.Module:
        """A head whose last layer is torch's."""
        prototypes = head.prototypes
        linear = nn.Linear(prototypes.direction.shape[1], len(prototypes.direction), bias=False)
        linear = nn.utils.parametrizations.weight_norm(linear)
        linear.parametrizations.weight.original0 = prototypes.gain
        linear.parametrizations.weight.original1 = prototypes.direction
        return nn.Sequential(head.layers, Normalise(), linear)

    def loss(self, whole: Tensor, local: Tensor) -> Tensor:
        student, teacher = self.backbones
        with torch.no_grad():
            taught = teacher(whole.transpose(0, 1).flatten(0, 1)).pooler_output.unflatten(0, (2, -1))
        learned = [student(crops.transpose(0, 1).flatten(0, 1)).pooler_output for crops in (whole, local)]
        return self.loss_of_features(torch.cat(learned).unflatten(0, (-1, len(whole))), taught)

    def loss_of_features(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            taught = self.heads[1](teacher.flatten(0, 1))
            targets = ((taught - self.center) / TEMPERATURE).softmax(dim=-1).unflatten(0, teacher.shape[:2])
            self.center = 0.9 * self.center + 0.1 * taught.mean(dim=0)
        logits = self.heads[0](student.flatten(0, 1)).unflatten(0, student.shape[:2]) / 0.1
        losses = [
            -(target * crop.log_softmax(dim=-1)).sum(dim=-1).mean()
            for number, target in enumerate(targets)
            for other, crop in enumerate(logits)
            if number != other
        ]
        return sum(losses) / len(losses)

    @torch.no_grad()
    def update_teacher(self) -> None:
        for student, teacher in (self.backbones, self.heads):
            for ours, average in zip(student.parameters(), teacher.parameters(), strict=True):
                average.mul_(MOMENTUM).add_((1 - MOMENTUM) * ours)


class Normalise(nn.Module):
    """L2-normalises rows."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(features, dim=-1)


class Lightly:
    """timm's backbone under lightly's parts."""

    def __init__(self):
        torch.manual_seed(0)
        self.student = self.network()
        self.teacher = self.network().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        self.criterion = DINOLoss(65536, TEMPERATURE, TEMPERATURE, 0)
        self.learned = [weight for weight in self.student.parameters() if weight.requires_grad]

    @staticmethod
    def network() -> nn.Sequential:
        """Backbone and head."""
        backbone = timm.create_model("vit_small_patch16_224.dino", num_classes=0, dynamic_img_size=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(backbone, DINOProjectionHead(384, norm_last_layer=False)).train()

    def loss(self, whole: Tensor, local: Tensor) -> Tensor:
        with torch.no_grad():
            taught = [self.teacher(crop) for crop in whole.unbind(1)]
        learned = [self.student(crop) for crop in (*whole.unbind(1), *local.unbind(1))]
        return self.criterion(taught, learned)

    def loss_of_features(self, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            taught = [self.teacher[1](crop) for crop in teacher]
        return self.criterion(taught, [self.student[1](crop) for crop in student])

    def update_teacher(self) -> None:
        update_momentum(self.student, self.teacher, MOMENTUM)


def make(name: str) -> Ours | Plain | Lightly:
    """One of the three ways."""
    return {"hf_vit_suite": Ours, "plain": Plain, "lightly": Lightly}[name]()


def step_of(way: Ours | Plain | Lightly, batch: int) -> Callable[[], None]:
    """A whole training step."""
    crops = crops_of(batch)
    optimizer = torch.optim.AdamW(way.learned, lr=1e-5, weight_decay=0.04, fused=True)

    def step() -> None:
        way.loss(*crops).backward()
        for weight in way.learned:
            clip_grad_norm_([weight], LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
        way.update_teacher()

    return step


def head_and_loss_of(way: Ours | Plain | Lightly, batch: int) -> Callable[[], None]:
    """What follows the backbone, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(10, batch, 384, generator=generator, requires_grad=True)
    teacher = torch.randn(2, batch, 384, generator=generator)

    def run() -> None:
        way.loss_of_features(student, teacher).backward()
        for weight in way.learned:
            weight.grad = None

    return run


PARTS = {"step": step_of, "head and loss": head_and_loss_of}


def print_peak_of(name: str, part: str, batch: int) -> None:
    """Prints how much memory one way takes, in MiB: for a step all of it, else beyond the weights."""
    if part == "step":
        print(peak_mebibytes(lambda: three_steps(name, batch)))
    else:
        print(peak_mebibytes(PARTS[part](make(name), batch)))


def three_steps(name: str, batch: int) -> None:
    """Makes the networks and trains, at last with the optimiser's state."""
    step = step_of(make(name), batch)
    for _ in range(3):
        step()


def main() -> None:
    """Prints times and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_peak_of(*arguments.memory_of, arguments.batch)
        return
    options = ("--batch", str(arguments.batch), "--threads", str(arguments.threads))
    peaks = {
        part: {name: printed_by(__file__, "--memory_of", name, part, *options) for name in WAYS} for part in PARTS
    }
    ways = {name: make(name) for name in WAYS}
    crops = crops_of(arguments.batch)
    ours, plain = (ways[name].loss(*crops).item() for name in WAYS[:2])
    assert abs(ours - plain) < 1e-5 * plain, (ours, plain)
    columns = (f"{part}: {unit}" for part in PARTS for unit in ("ms", "ratio", "MiB", "ratio"))
    table = Table(Column(no_wrap=True), *columns, box=SIMPLE)
    times = {
        part: median_milliseconds({name: run(way, arguments.batch) for name, way in ways.items()}, arguments.rounds)
        for part, run in PARTS.items()
    }
    for name in WAYS:
        row = []
        for part in PARTS:
            row += [f"{times[part][name]:.0f}", f"{times[part][name] / times[part][WAYS[0]]:.2f}"]
            row += [f"{peaks[part][name]:.0f}", f"{peaks[part][WAYS[0]] / peaks[part][name]:.2f}"]
        table.add_row(name, *row)
    Console(width=120).print(table)
    print("ratios: time of each over ours, and our memory over each")
    print(f"torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}")


if __name__ == "__main__":
    main()
