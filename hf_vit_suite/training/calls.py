"""How a run was called, for its model card: the command line, or the call from Python."""

import copy
import functools
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Any


def command_line(command: str, arguments: Sequence[str], token: str | None) -> str:
    """A command line without the Hub token.

    Args:
        command: What follows `hf-vit-suite`.
        arguments: The arguments that were parsed.
        token: The Hub's, replaced by *** wherever it occurs.
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


def recording_given(post_init: Callable[[Any], None]) -> Callable[[Any], None]:
    """Makes a dataclass's `__post_init__` record which fields were given and which values it leaves.

    `TrainingArguments` replaces many fields by what follows from others, which a model card must not show as given.
    The names are kept as `_given`, copies of the values as `_derived`.
    """

    @functools.wraps(post_init)
    def recorded(self: Any) -> None:
        if type(self).__post_init__ is not recorded:  # called by a subclass's, which records
            return post_init(self)
        self._given = frozenset(name for name, (value, default) in published(self).items() if value != default)
        post_init(self)
        self._derived = {name: copied(value) for name, (value, _) in published(self).items()}

    return recorded


def changed_fields(arguments: Any) -> dict[str, Any]:
    """Fields of a dataclass that were given another value than the default, or set to another one since."""
    # Where nothing is derived, a field was given if it differs from its default.
    given, derived = getattr(arguments, "_given", ()), getattr(arguments, "_derived", None)
    changed = {}
    for name, (value, default) in published(arguments).items():
        if name in given or value != (default if derived is None else derived[name]):
            shown = readable(value)
            if shown != {} or not is_dataclass(value):
                changed[name] = shown
    return changed


def published(arguments: Any) -> dict[str, tuple[Any, Any]]:
    """Value and default of each field of the constructor but tokens, which no card and no saved file may hold."""
    return {
        field.name: (getattr(arguments, field.name), default_of(field))
        for field in fields(arguments)
        if field.init and not field.name.endswith("_token")
    }


def default_of(field: Field) -> Any:
    """A field's default; `MISSING` where there is none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def copied(value: Any) -> Any:
    """A copy that a change of the value in place does not reach."""
    return copy.deepcopy(value) if isinstance(value, (list, dict)) else copy.copy(value)


def readable(value: Any) -> Any:
    """An option or a path as the text that gives it, and a dataclass as the dictionary of its changed fields."""
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return changed_fields(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
