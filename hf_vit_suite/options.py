"""Options of a call by keyword: the same names, defaults and checks as the flags of the command."""

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .output import Result

UNIONS = (Union, UnionType)
NUMBERS = {int: Integral, float: Real}


def option_names(kinds: Sequence[type]) -> list[str]:
    """The fields of dataclasses that their constructors take."""
    return [field.name for kind in kinds for field in fields(kind) if field.init]


def with_defaults(kinds: Sequence[type], options: Mapping[str, Any]) -> dict[str, Any]:
    """The given options, and the plain default of every other option that has one."""
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for kind in kinds
        for field in fields(kind)
        if field.init and not (field.default is MISSING and field.default_factory is MISSING)
    }
    return {**defaults, **options}


def from_options(kinds: Sequence[type], options: Mapping[str, Any], call: str) -> tuple[Any, ...]:
    """One instance of each dataclass from options by name.

    Args:
        kinds: Dataclasses without common field names.
        options: Values by field name; the other fields keep their defaults.
        call: The called function, for errors.

    Raises:
        ValueError: If an option is unknown, with the nearest name, or a required one is missing.
    """
    refuse_unknown(options, option_names(kinds), call)
    options = {name: plain_value(value) for name, value in options.items()}
    known = with_defaults(kinds, options)
    if missing := [name for name in option_names(kinds) if name not in known]:
        raise ValueError(f"{call} needs {missing[0]}: give {missing[0]}=...")
    return tuple(kind(**checked_values(kind, options)) for kind in kinds)


def checked_values(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of a dataclass, checked as a command's parser checks its flags.

    Raises:
        ValueError: If a number, a flag or a choice has a value of another kind.
    """
    hints = get_type_hints(kind)
    return {name: checked(name, options[name], hints[name]) for name in option_names([kind]) if name in options}


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value that fits its type; a single text becomes a list where one is expected.

    Only choices, numbers, flags and lists of texts are checked: other types of `TrainingArguments` are wider than
    their annotations.
    """
    allowed = [part for part in (get_args(hint) if get_origin(hint) in UNIONS else (hint,)) if part is not type(None)]
    if value is None or len(allowed) != 1:
        return value
    (kind,) = allowed
    if get_origin(kind) is Literal:
        choose(value, get_args(kind), name)
    elif kind is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    elif kind in NUMBERS and (isinstance(value, bool) or not isinstance(value, NUMBERS[kind])):
        raise ValueError(f"{name} must be a{'n integer' if kind is int else ' number'}, got {value!r}")
    elif kind == list[str] and isinstance(value, str):
        return [value]
    return value


def plain_value(value: Any) -> Any:
    """A path, or the checkpoint of a result, as text; any other value as it is."""
    if isinstance(value, Result):
        return value.checkpoint
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def refuse_unknown(given: Sequence[str] | Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Refuses names that are not known, and suggests the nearest one.

    Raises:
        ValueError: Naming every unknown name.
    """
    if unknown := sorted(set(given) - set(known)):
        nearest = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{where}: unknown arguments: {', '.join(unknown)}{hint}")


def choose(name: str, known: Sequence[str], what: str) -> str:
    """Returns `name` if it is known.

    Raises:
        ValueError: Otherwise, listing the known names.
    """
    if name not in known:
        raise ValueError(f"no {what} is named {name!r}: choose {', '.join(map(str, known))}")
    return name


def as_call(function: str, *arguments: Any, **options: Any) -> str:
    """A Python call as text, for a model card; tokens and `None` are left out, objects appear as their type."""
    shown = [readable(value) for value in arguments]
    shown += [
        f"{name}={readable(value)}"
        for name, value in options.items()
        if value is not None and not name.endswith("_token")
    ]
    inline = f"{function}({', '.join(shown)})"
    if len(inline) <= 100:
        return inline
    return "\n".join([f"{function}(", *(f"    {text}," for text in shown), ")"])


def readable(value: Any) -> str:
    """A value as Python source where it is plain data, else its type in angle brackets."""
    if isinstance(value, str | bool | int | float | None):
        return repr(value)
    if isinstance(value, list | tuple):
        inner = ", ".join(readable(item) for item in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' * (len(value) == 1)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{readable(key)}: {readable(item)}" for key, item in value.items()) + "}"
    plain = plain_value(value)
    return repr(plain) if isinstance(plain, str) else f"<{type(value).__name__}>"
