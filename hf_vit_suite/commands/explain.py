"""`hf-vit-suite explain MODEL IMAGE... --out PATH`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..names import visible

METHODS = {
    "attention": "attention of the class token (default)",
    "rollout": "attention multiplied through the layers",
    "relevance": "relevance for a class or text (default with --text)",
    "gradient": "attention times its gradient",
    "similarity": "cosine similarity of all patches with the one at --point",
    "pca": "first three PCA components of the patches of all images, shown as RGB",
    "mask": "the patches that hold --mass of the attention",
    "reconstruction": "a masked autoencoder's reconstruction",
}
OPTIONS = ("target", "layer", "head", "fusion", "discard_ratio", "point", "mass")


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments; the method checks which options it takes."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite explain", description="Draws what a model attends to.")
    parser.add_argument("model", help="folder or Hub name of a model of the suite, or transformers' ViT, DeiT, ...")
    parser.add_argument("images", nargs="+", metavar="image", help="image files of any size")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        help="file for a figure of all images, e.g. attention.png, or folder for an overlay of each image",
    )
    parser.add_argument("--format", choices=("png", "svg", "npy", "gif"), help="default the suffix of --out, else png")
    parser.add_argument(
        "--method", choices=tuple(METHODS), help="; ".join(f"{name}: {text}" for name, text in METHODS.items())
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--target", help="relevance, gradient: name or number of a class (default the predicted one)")
    asked.add_argument("--text", nargs="+", help="relevance, gradient: for a CLIP, texts whose match is explained")
    parser.add_argument("--layer", type=int, help="layer from 0, negative from the end; relevance: the first gathered")
    parser.add_argument("--head", type=int, help="attention, gradient, mask: one head from 0 (default their mean)")
    parser.add_argument("--fusion", choices=("mean", "max", "min"), help="rollout: over the heads (default mean)")
    parser.add_argument(
        "--discard_ratio", type=float, help="rollout: fraction of the smallest weights that is dropped (default 0)"
    )
    parser.add_argument(
        "--point",
        type=float,
        nargs=2,
        metavar=("X", "Y"),
        help="similarity: fractions of width and height (default 0.5 0.5)",
    )
    parser.add_argument("--mass", type=float, help="mask: fraction of the attention that is kept (default 0.6)")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Draws figures, or overlays at the images' own resolution."""
    parsed = build_parser().parse_args(arguments)
    from ..explain.files import explain_files

    options = {name: getattr(parsed, name) for name in OPTIONS}
    options["texts"] = parsed.text
    written = explain_files(parsed.model, parsed.images, parsed.out, parsed.method, parsed.format, **options)
    for path in written:
        print(f"wrote {visible(str(path))}")
    return 0
