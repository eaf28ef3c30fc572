"""How a run was called, for its model card: the command line, or the call from Python."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import Any


def command_line(command: str, arguments: Sequence[str], token: str | None) -> str:
    """A command line fit to be published.

    Args:
        command: What follows `hf-vit-suite`.
        arguments: The arguments that were parsed.
        token: The Hub's, which is starred out wherever it stands.
    """
    shown = [argument.replace(token, "***") for argument in arguments] if token else arguments
    return shlex.join(["hf-vit-suite", *command.split(), *shown])


def python_call(function: str, *arguments: Any) -> str:
    """A call from Python, with what differs from the defaults and without tokens.

    Args:
        function: Its name.
        *arguments: Instances of dataclasses.
    """
    lines = [
        f"    {type(part).__name__}({', '.join(f'{name}={value!r}' for name, value in changed_fields(part).items())}),"
        for part in arguments
    ]
    return "\n".join(["# called from Python", f"{function}(", *lines, ")"])


def changed_fields(arguments: Any) -> dict[str, Any]:
    """Fields of a dataclass that were given, or set since, to other values than the defaults; tokens are left out."""
    given = getattr(arguments, "given", None)
    changed = {}
    for field in fields(arguments):
        value, default = getattr(arguments, field.name), default_of(field)
        if not field.init or value == default or field.name.endswith("_token"):
            continue
        # TrainingArguments replaces many a None, text or list by what follows from it: those were not given.
        if given is None or field.name in given or (type(value) is type(default) and field.name != "do_eval"):
            changed[field.name] = readable(value)
    return changed


def default_of(field: Field) -> Any:
    """A field's default; `MISSING` where there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def readable(value: Any) -> Any:
    """An option or a path as the text that gives it."""
    if isinstance(value, Enum):
        return value.value
    return os.fspath(value) if isinstance(value, os.PathLike) else value
