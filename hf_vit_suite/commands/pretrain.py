"""`hf-vit-suite pretrain mae|dino|clip`."""

import argparse
from collections.abc import Sequence

METHODS = {
    "mae": "masked autoencoder",
    "dino": "self-distillation",
    "clip": "images with captions",
}


def run(arguments: Sequence[str]) -> int:
    """Pretrains an encoder."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite pretrain", description="Pretrains an encoder.")
    methods = parser.add_subparsers(title="methods", required=True, metavar="METHOD", dest="method")
    for name, text in METHODS.items():
        methods.add_parser(name, help=f"{text}; --help lists its options", add_help=False)
    parsed, rest = parser.parse_known_args(arguments)
    from .training import run_recipe  # the options of transformers take seconds to import

    return run_recipe(parsed.method, rest)
