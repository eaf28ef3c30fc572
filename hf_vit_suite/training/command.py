"""The command lines of training: transformers' HfArgumentParser, with a file of arguments and defaults by job."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


def parse(
    arguments: Sequence[str],
    command: str,
    description: str,
    dataclasses: tuple[type, ...],
    job_defaults: Callable[[argparse.Namespace], dict],
) -> tuple[Any, ...]:
    """Reads arguments; `--config FILE` names a YAML or JSON file of them, over which the command line wins.

    Args:
        arguments: The command line after the command.
        command: What stands in front of them.
        description: What the command does, for `--help`.
        dataclasses: Whose fields are the arguments.
        job_defaults: Defaults that follow from what is given.

    Returns:
        One instance of each of the dataclasses.

    Raises:
        ValueError: If the file can't be read or names an unknown argument.
        SystemExit: With code 2 for wrong arguments, as argparse does.
    """
    parser = HfArgumentParser(dataclasses, prog=f"hf-vit-suite {command}", description=description)
    parser.add_argument("--config", type=Path, help="YAML or JSON file of arguments; those given here win over it")
    given = parser.parse_args(arguments)
    from_file = read_config(given.config, parser) if given.config is not None else {}
    parser.set_defaults(**from_file)
    given = parser.parse_args(arguments)
    parser.set_defaults(**job_defaults(given) | from_file)
    *parsed, _ = parser.parse_args_into_dataclasses(list(arguments), look_for_args_file=False)
    return tuple(parsed)


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
