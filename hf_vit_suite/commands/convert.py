"""`hf-vit-suite convert SOURCE OUT`: reference weights in, or one of our models out."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_overrides import parse_overrides

if TYPE_CHECKING:  # torch takes seconds to import
    import torch

DTYPES = ("float32", "float16", "bfloat16")


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from ..conversion.layouts import MODULES

    parser = argparse.ArgumentParser(
        prog="hf-vit-suite convert",
        description="Converts reference weights to a folder that AutoModel opens; with --to, a model of the suite to "
        "a reference's layout.",
    )
    parser.add_argument("source", help="file, folder or Hub name of reference weights; with --to, of a model")
    parser.add_argument("out", type=Path, help="folder to write; with --to, the file, for transformers the folder")
    parser.add_argument("--layout", choices=MODULES, help="layout of the source; default detected")
    parser.add_argument("--to", choices=MODULES, help="write the model in this layout")
    parser.add_argument("--dtype", choices=DTYPES, help="type of the written weights; default unchanged")
    parser.add_argument("--preset", help="architecture by name (`hf-vit-suite models`); default inferred from shapes")
    parser.add_argument(
        "--config_overrides",
        help="config fields that weights don't determine, e.g. hidden_act=relu or vision_config.num_attention_heads=4",
    )
    parser.add_argument(
        "--head", type=Path, help="file of the linear classifier that DINO and DINOv2 publish beside the backbone"
    )
    parser.add_argument(
        "--weights",
        help="which weights of a training checkpoint to take: ema, teacher, student, or the name of their entry; "
        "default the plain weights, and the teacher of a teacher and a student",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="run the reference's own model too, print differences layer by layer",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Converts reference weights, or writes a model in a reference's layout."""
    parser = build_parser()
    parsed = parser.parse_args(arguments)
    if parsed.to and any((parsed.layout, parsed.preset, parsed.config_overrides, parsed.weights, parsed.verify)):
        parser.error(
            "--to exports a model: --layout, --preset, --config_overrides, --weights and --verify are for import"
        )

    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours shows the bytes that are written
    dtype = getattr(torch, parsed.dtype) if parsed.dtype else None
    if parsed.to:
        write_out(parsed, dtype)
    else:
        read_in(parsed, dtype)
    return 0


def write_out(parsed: argparse.Namespace, dtype: "torch.dtype | None") -> None:
    """Exports one of our models in a reference's layout."""
    from ..conversion.exporting import export_reference

    dropped = export_reference(parsed.source, parsed.out, parsed.to, dtype, parsed.head, show_progress=True)
    print_dropped(dropped)
    print(f"wrote {parsed.out} in the layout {parsed.to}")


def read_in(parsed: argparse.Namespace, dtype: "torch.dtype | None") -> None:
    """Imports reference weights as one of our models."""
    from ..conversion.importing import open_reference, write_model
    from ..conversion.verification import verify

    overrides = parse_overrides(parsed.config_overrides)
    reference = open_reference(parsed.source, parsed.layout, parsed.preset, parsed.head, overrides, parsed.weights)
    print(f"{reference.located.weights}: {reference.layout.name}, {reference.form.name}")
    for note in reference.notes:
        print(note)
    print_dropped(reference.plan.dropped)
    check = (lambda model: verify(reference, model, dtype)) if parsed.verify else None
    write_model(reference, parsed.out, dtype, show_progress=True, check=check)
    parameters = sum(tensor.numel() for tensor in reference.planned.values())
    print(f"wrote {parsed.out}: {reference.form.model.__name__}, {parameters:,} numbers")


def print_dropped(dropped: dict[str, str]) -> None:
    """Prints which tensors are not stored, and why."""
    for name, reason in dropped.items():
        print(f"not stored: {name} ({reason})")
