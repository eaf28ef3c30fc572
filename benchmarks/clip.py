"""A training step of CLIP's ViT-B/32 beside transformers' and open_clip's, and the memory of a step with 512 pairs.

    python benchmarks/clip.py [--batch 16] [--rounds 7] [--threads 2]

A step is forward with loss, backward and a fused AdamW update, of three models with the same architecture (QuickGELU
in all) on the same pairs in float32. Captions are padded to 77 tokens, as in the peers' training scripts, and for
ours also to the longest of the batch, as in our training. A round times each part of each step once, in turn, so that
other load affects all of them; a step is the sum of its parts' medians. The ratios are each model's step over ours
with as many tokens (above 1: ours is faster). Memory is the peak of three steps beyond the interpreter with its
imports, each model in a process of its own.

Finally ours takes a step with `--large_batch` pairs of 77 tokens, the activations of `--cached_batch_size` pairs in
memory at a time, in a process of its own; the target is a peak of at most 4 GiB.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import open_clip
import torch
import transformers
from measuring import median_milliseconds, peak_mebibytes, printed_by
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from hf_vit_suite import SuiteCLIPModel, preset_config

OURS, *PEERS = NAMES = ("hf_vit_suite", "transformers", "open_clip")
PARTS = ("forward", "backward", "update")
START, END, MOST_TOKENS = 49406, 49407, 77
AIM = 4096  # MiB


def build(name: str) -> tuple[nn.Module, Callable[..., Tensor]]:
    """One of the models, ready to train, and its loss of texts and images."""
    torch.manual_seed(0)
    if name == "open_clip":
        model, criterion = open_clip.create_model("ViT-B-32-quickgelu").train(), open_clip.ClipLoss()
        return model, lambda texts, images: criterion(*model(images, texts))
    model = SuiteCLIPModel(preset_config("clip_vit_b_32")) if name == OURS else CLIPModel(CLIPConfig())
    return model.train(), lambda texts, images, **options: model(texts, images, return_loss=True, **options).loss


class Training:
    """A model with the paper's optimiser; `forward`, `backward` and `update` make a step."""

    def __init__(self, name: str):
        self.model, self.compute_loss = build(name)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, fused=True
        )
        self.loss: Tensor | None = None

    def forward(self, texts: Tensor, images: Tensor, **options) -> None:
        self.loss = self.compute_loss(texts, images, **options)

    def backward(self) -> None:
        self.loss.backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, texts: Tensor, images: Tensor, **options) -> None:
        """All three; what options there are, the model's `forward` knows."""
        self.forward(texts, images, **options)
        self.backward()
        self.update()


def pairs_of(batch: int, longest: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Captions `[batch, tokens]`, whose longest has `longest` tokens before padding, and images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 224, 224, generator=generator)
    words = torch.randint(START, (batch, MOST_TOKENS), generator=generator)[:, :tokens]
    lengths = torch.randint(longest // 2, longest + 1, (batch, 1), generator=generator)
    lengths[0] = longest
    texts = torch.where(torch.arange(tokens) < lengths - 1, words, END)
    texts[:, 0] = START
    return texts, images


def three_steps(name: str, pairs: tuple[Tensor, Tensor]) -> None:
    """Makes a model and trains it, at last with the optimiser's state."""
    training = Training(name)
    for _ in range(3):
        training.step(*pairs)


def print_large_step(batch: int, cached_batch_size: int, longest: int) -> None:
    """Prints peak memory and seconds of a step of ours after another made the optimiser's state."""
    seconds = 0.0

    def train() -> None:
        nonlocal seconds
        training = Training(OURS)
        training.step(*pairs_of(cached_batch_size, longest, MOST_TOKENS))
        pairs = pairs_of(batch, longest, MOST_TOKENS)
        started = time.perf_counter()
        training.step(*pairs, cached_batch_size=cached_batch_size)
        seconds = time.perf_counter() - started

    peak = peak_mebibytes(train)
    print(f"a step of {OURS} with {batch} pairs, {cached_batch_size} at a time: {seconds:.0f} s, peak {peak:.0f} MiB")
    print(f"the aim is {AIM} MiB: {'reached' if peak <= AIM else 'missed'}")


def compare(arguments: argparse.Namespace, options: list[str]) -> Table:
    """Times all models in this process and has the memory of each measured in another."""
    lengths = (MOST_TOKENS, arguments.caption_tokens)
    rows = [*((OURS, tokens) for tokens in lengths), *((peer, MOST_TOKENS) for peer in PEERS)]
    peaks = {row: printed_by(__file__, "--memory_of", row[0], str(row[1]), *options) for row in rows}
    trainings = {name: Training(name) for name in NAMES}
    sizes = {sum(weight.numel() for weight in training.model.parameters()) for training in trainings.values()}
    assert len(sizes) == 1, sizes
    contenders = {}
    for name, tokens in rows:
        training, pairs = trainings[name], pairs_of(arguments.batch, arguments.caption_tokens, tokens)
        runs = (partial(training.forward, *pairs), training.backward, training.update)
        contenders |= {f"{name} {tokens} {part}": run for part, run in zip(PARTS, runs, strict=True)}
    medians = median_milliseconds(contenders, arguments.rounds)
    times = {(name, tokens): [medians[f"{name} {tokens} {part}"] for part in PARTS] for name, tokens in rows}

    ratios = (f"ratio to {tokens}" for tokens in lengths)
    table = Table("", "tokens", *(f"{part} ms" for part in (*PARTS, "step")), *ratios, "peak MiB", box=SIMPLE)
    for row, parts in times.items():
        numbers = [f"{value:.0f}" for value in (row[1], *parts, sum(parts))]
        numbers += [f"{sum(parts) / sum(times[OURS, tokens]):.2f}" for tokens in lengths]
        table.add_row(row[0], *numbers, f"{peaks[row]:.0f}")
    return table


def main() -> None:
    """Prints times and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    defaults = {"batch": 16, "rounds": 7, "caption_tokens": 16, "large_batch": 512, "cached_batch_size": 16}
    for name, default in {**defaults, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = [f"--{name}={value}" for name, value in vars(parser.parse_known_args()[0]).items()]
    parser.add_argument("--memory_of", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--large_step", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        name, tokens = arguments.memory_of
        pairs = pairs_of(arguments.batch, arguments.caption_tokens, int(tokens))
        print(peak_mebibytes(lambda: three_steps(name, pairs)))
    elif arguments.large_step:
        print_large_step(arguments.large_batch, arguments.cached_batch_size, arguments.caption_tokens)
    else:
        Console(width=120).print(compare(arguments, options))
        versions = (
            f"torch {torch.__version__}, transformers {transformers.__version__}, open_clip {open_clip.__version__}"
        )
        print(f"{versions}, {arguments.threads} threads, batch {arguments.batch}", flush=True)
        subprocess.run([sys.executable, __file__, "--large_step", *options], check=True)


if __name__ == "__main__":
    main()
