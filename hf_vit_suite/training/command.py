"""The command line of `hf-vit-suite finetune`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .arguments import (
    DataArguments,
    FinetuneTrainingArguments,
    ModelArguments,
    RecipeArguments,
    job_defaults,
)


def parse(
    arguments: Sequence[str],
) -> tuple[ModelArguments, DataArguments, RecipeArguments, FinetuneTrainingArguments]:
    """Reads arguments; `--config FILE` names a YAML or JSON file of them, over which the command line wins.

    Raises:
        ValueError: If the file can't be read or names an unknown argument.
        SystemExit: With code 2 for wrong arguments, as argparse does.
    """
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, RecipeArguments, FinetuneTrainingArguments),
        prog="hf-vit-suite finetune",
        description="Fine-tunes an image classifier and leaves a folder that AutoModel opens.",
    )
    parser.add_argument("--config", type=Path, help="YAML or JSON file of arguments; those given here win over it")
    given = parser.parse_args(arguments)
    from_file = read_config(given.config, parser) if given.config is not None else {}
    parser.set_defaults(**from_file)
    given = parser.parse_args(arguments)
    parser.set_defaults(**job_defaults(given.dataset, given.model, given.linear_probe, given.lora) | from_file)
    *dataclasses, _ = parser.parse_args_into_dataclasses(list(arguments), look_for_args_file=False)
    return tuple(dataclasses)


def read_config(path: Path, parser: argparse.ArgumentParser) -> dict:
    """Arguments from a file; JSON is YAML too."""
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold names and values, got {type(values).__name__}")
    known = {action.dest for action in parser._actions} - {"config", "help"}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"--config {path} names unknown arguments: {', '.join(unknown)}")
    return values
