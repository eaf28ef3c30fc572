"""A training step of MAE's ViT-B beside transformers' ViTMAE: time in turn in one process, peak memory in one each.

    python benchmarks/mae.py [--batch 8] [--rounds 7] [--threads 2]

Both models have the same weights, images and masks, and before they are timed their losses are compared. A step is
forward, backward and a fused AdamW update. A round times each once, in turn, so that other load affects both. The
ratio is transformers' median over ours (above 1: ours is faster). The fraction of products is the time that the step's
matrix products would take at the rate of the machine's own products of the same shapes, over the step's time.
"""

import argparse
import statistics
import time

import torch
from measuring import peak_mebibytes, printed_by
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_vit_suite import SuiteMAEForPreTraining, preset_config

PARTS = ("forward", "backward", "update")
# Tokens, inner and outer width of the largest products of an image: the encoder's and the decoder's MLP.
PRODUCTS = ((50, 768, 3072), (197, 512, 2048))


def build(name: str) -> nn.Module:
    """One of the two models, ready to train."""
    torch.manual_seed(0)
    if name == "hf_vit_suite":
        return SuiteMAEForPreTraining(preset_config("mae_vit_base", norm_pix_loss=True)).train()
    return ViTMAEForPreTraining(ViTMAEConfig(layer_norm_eps=1e-6, norm_pix_loss=True)).train()


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under transformers' names, with separate queries, keys and values."""
    names = (
        ("vit.encoder.blocks.", "vit.layers."),
        ("vit.norm.", "vit.layernorm."),
        ("decoder.trunk.blocks.", "decoder.decoder_layers."),
        ("decoder.position_embeddings", "decoder.decoder_pos_embed"),
        ("decoder.embed.", "decoder.decoder_embed."),
        ("decoder.norm.", "decoder.decoder_norm."),
        ("decoder.predict.", "decoder.decoder_pred."),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".proj.", ".o_proj."),
    )
    converted = {}
    for key, value in state.items():
        for ours, theirs in names:
            key = key.replace(ours, theirs)
        if ".qkv." in key:
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                converted[key.replace(".qkv.", f".{part}.")] = piece
        else:
            converted[key] = value
    return converted


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, noise: Tensor) -> dict[str, float]:
    """Milliseconds of each part of a step."""
    times = [time.perf_counter()]
    loss = model(pixels, noise=noise).loss
    times.append(time.perf_counter())
    loss.backward()
    times.append(time.perf_counter())
    optimizer.step()
    optimizer.zero_grad()
    times.append(time.perf_counter())
    return {part: 1000 * (end - start) for part, start, end in zip(PARTS, times, times[1:], strict=False)}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The paper's optimiser."""
    return torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.05, fused=True)


def batch_of(size: int) -> tuple[Tensor, Tensor]:
    """Images and the noise of their masks."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 224, 224, generator=generator), torch.rand(size, 196, generator=generator)


def product_rate(batch: int) -> float:
    """Floating-point operations a second of the machine's matrix products at the sizes of the models' MLPs."""
    operations = seconds = 0.0
    for tokens, inner, outer in PRODUCTS:
        left, right = torch.randn(batch * tokens, inner), torch.randn(inner, outer)
        runs = []
        for _ in range(12):
            started = time.perf_counter()
            left @ right
            runs.append(time.perf_counter() - started)
        operations += 2 * left.numel() * outer
        seconds += statistics.median(runs)
    return operations / seconds


def time_both(batch: int, rounds: int) -> None:
    """Prints the table of times."""
    models = {name: build(name) for name in ("hf_vit_suite", "transformers")}
    models["transformers"].load_state_dict(to_transformers(models["hf_vit_suite"].state_dict()))
    optimizers = {name: adamw(model) for name, model in models.items()}
    pixels, noise = batch_of(batch)
    ours, theirs = (model(pixels, noise=noise).loss.item() for model in models.values())
    assert abs(ours - theirs) < 1e-5 * abs(theirs), (ours, theirs)
    operations = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter:
            model(pixels, noise=noise).loss.backward()
        operations[name] = counter.get_total_flops()
        model.zero_grad()
    times: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for round_number in range(rounds + 1):
        for name, model in models.items():
            parts = train_step(model, optimizers[name], pixels, noise)
            if round_number:  # the first warms up
                times[name].append(parts)
    rate = product_rate(batch)
    medians = {
        name: {part: statistics.median(step[part] for step in steps) for part in PARTS}
        for name, steps in times.items()
    }
    totals = {name: statistics.median(sum(step.values()) for step in steps) for name, steps in times.items()}
    table = Table("", *(f"{part} ms" for part in PARTS), "step ms", "GFLOP", "fraction of products", box=SIMPLE)
    for name, parts in medians.items():
        share = operations[name] / rate / (totals[name] / 1000)
        columns = [f"{value:.0f}" for value in (*parts.values(), totals[name], operations[name] / 1e9)]
        table.add_row(name, *columns, f"{share:.2f}")
    Console(width=110).print(table)
    print(f"ratio {totals['transformers'] / totals['hf_vit_suite']:.2f}, products at {rate / 1e9:.0f} GFLOP/s")


def three_steps(name: str, batch: int) -> None:
    """Makes a model and trains it, at last with the optimiser's state."""
    model = build(name)
    optimizer = adamw(model)
    for _ in range(3):
        train_step(model, optimizer, *batch_of(batch))


def main() -> None:
    """Prints times and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory_of", choices=("hf_vit_suite", "transformers"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(peak_mebibytes(lambda: three_steps(arguments.memory_of, arguments.batch)))
        return
    options = ("--batch", str(arguments.batch), "--threads", str(arguments.threads))
    peaks = {name: printed_by(__file__, "--memory_of", name, *options) for name in ("hf_vit_suite", "transformers")}
    time_both(arguments.batch, arguments.rounds)
    for name, peak in peaks.items():
        print(f"peak memory of {name}: {peak:.0f} MiB")
    print(f"ratio {peaks['hf_vit_suite'] / peaks['transformers']:.2f}")
    print(f"torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}")


if __name__ == "__main__":
    main()
