"""Inference speed of ViT-S/16 and ViT-B/16 classifiers beside timm's and transformers', in turn in one process.

    python benchmarks/inference.py [--models vit_small_patch16_224] [--rounds 7] [--threads 2]

Every model has the same weights; before it is timed, its logits are compared. A round times each of the three once,
in turn, so that other load affects all of them; printed are the median times and the ratio of the faster
peer's median to ours (above 1: ours is faster).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from hf_vit_suite import SuiteViTForImageClassification, preset_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def same_weights(name: str) -> dict[str, nn.Module]:
    """Our classifier, timm's and transformers' with equal weights."""
    config = preset_config(name)
    ours = SuiteViTForImageClassification(config)
    theirs = timm.create_model(name)
    hugging_face = ViTForImageClassification(
        ViTConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_hidden_layers=config.num_hidden_layers,
            intermediate_size=config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            num_labels=1000,
        )
    )
    state = ours.state_dict()
    for target, convert in ((theirs, to_timm), (hugging_face, to_transformers)):
        target.load_state_dict(convert(state))
    return {"hf_vit_suite": ours.eval(), "timm": theirs.eval(), "transformers": hugging_face.eval()}


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under timm's names."""
    names = (
        ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("vit.embeddings.position_embeddings", "pos_embed"),
        ("vit.embeddings.", ""),
        ("vit.encoder.", ""),
        ("vit.", ""),
        (".attention.", ".attn."),
        ("classifier.", "head."),
    )
    return {replace_all(key, names): value for key, value in state.items()}


def to_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under transformers' names, with separate queries, keys and values."""
    names = (
        ("vit.encoder.blocks.", "vit.layers."),
        ("vit.norm.", "vit.layernorm."),
        (".norm1.", ".layernorm_before."),
        (".norm2.", ".layernorm_after."),
        (".proj.", ".o_proj."),
    )
    converted = {}
    for key, value in state.items():
        key = replace_all(key, names)
        if ".qkv." in key:
            for part, piece in zip(("q_proj", "k_proj", "v_proj"), value.chunk(3), strict=True):
                converted[key.replace(".qkv.", f".{part}.")] = piece
        else:
            converted[key] = value
    return converted


def replace_all(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    """Text with every pair's first part replaced by its second, in order."""
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def logits(output) -> Tensor:
    """A model's logits, whatever it returns."""
    return output if isinstance(output, Tensor) else output.logits


def medians(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each call, timed in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(rounds + 2):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if round_number >= 2:  # the first two warm up
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


@torch.inference_mode()
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["vit_small_patch16_224", "vit_base_patch16_224"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("model", "dtype", "batch", "ours ms", "timm ms", "transformers ms", "ratio", box=SIMPLE)
    for name in arguments.models:
        for dtype_name, dtype in DTYPES.items():
            models = {key: model.to(dtype) for key, model in same_weights(name).items()}
            for batch in arguments.batches:
                pixels = torch.randn(batch, 3, 224, 224, dtype=dtype)
                results = {key: logits(model(pixels)).float() for key, model in models.items()}
                for result in results.values():
                    scale = results["timm"].abs().max()
                    assert (result - results["timm"]).abs().max() < (1e-4 if dtype is torch.float32 else 0.1) * scale
                calls = {key: (lambda model=model, pixels=pixels: model(pixels)) for key, model in models.items()}
                ours, *peers = medians(calls, arguments.rounds).values()
                columns = [f"{value:.1f}" for value in (ours, *peers)]
                table.add_row(name, dtype_name, str(batch), *columns, f"{min(peers) / ours:.2f}")
    Console(width=110).print(table)
    print(f"torch {torch.__version__}, {arguments.threads} threads, median of {arguments.rounds} rounds in turn")


if __name__ == "__main__":
    main()
