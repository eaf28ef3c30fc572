"""The conversion engine: one table of reversible rules per layout serves import and export.

"Theirs" are the tensors of the reference layout, "ours" those of the suite's model. A rule names tensors by patterns:
`{layer}` matches a number, `{parameter}` matches `weight` or `bias`, and `{rest}` matches any text. Planning uses
names alone and accounts for every tensor. Execution reads and makes one rule's tensors at a time. It also runs on
torch's meta device, which checks shapes before any value is read.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

PLACEHOLDERS = {"layer": r"\d+", "parameter": "weight|bias", "rest": ".+"}

Tensors = tuple[Tensor, ...]


class Change(NamedTuple):
    """A transform of one tensor from theirs to ours, and its inverse."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


SAME = Change(lambda tensor: tensor, lambda tensor: tensor)


def permuted(*order: int) -> Change:
    """Permutes their dimensions into the order of ours."""
    back = [order.index(dimension) for dimension in range(len(order))]
    return Change(lambda tensor: tensor.permute(order), lambda tensor: tensor.permute(back))


def reshaped(theirs: Sequence[int], ours: Sequence[int]) -> Change:
    """Reshapes from `theirs` to `ours`; -1 infers one dimension."""
    return Change(lambda tensor: tensor.reshape(ours), lambda tensor: tensor.reshape(theirs))


def chained(*changes: Change) -> Change:
    """Applies changes in order; the inverse undoes them in reverse order."""

    def to_ours(tensor: Tensor) -> Tensor:
        for change in changes:
            tensor = change.to_ours(tensor)
        return tensor

    def to_theirs(tensor: Tensor) -> Tensor:
        for change in reversed(changes):
            tensor = change.to_theirs(tensor)
        return tensor

    return Change(to_ours, to_theirs)


@dataclass(frozen=True)
class Rule:
    """Maps a group of their tensors to a group of ours.

    Args:
        theirs: Patterns of their names.
        ours: Patterns of our names, with the same placeholders.
        to_ours: Function from their tensors to ours.
        to_theirs: The inverse; `None` if a dropped tensor can't be restored.
        reason: Why the tensors have no counterpart; empty if they have one.
        is_optional: Whether files of the layout may lack this constant.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Callable[..., Tensors]
    to_theirs: Callable[..., Tensors] | None
    reason: str = ""
    is_optional: bool = False


def rename(theirs: str, ours: str, change: Change = SAME) -> Rule:
    """Maps one of their tensors to one of ours."""
    return Rule(
        (theirs,), (ours,), lambda tensor: (change.to_ours(tensor),), lambda tensor: (change.to_theirs(tensor),)
    )


def fuse(theirs: Sequence[str], ours: str, change: Change = SAME) -> Rule:
    """Changes each of several equally shaped tensors and concatenates them along dimension 0; export splits them."""

    def split(tensor: Tensor) -> Tensors:
        return tuple(change.to_theirs(part) for part in tensor.chunk(len(theirs)))

    return Rule(tuple(theirs), (ours,), lambda *parts: (torch.cat([change.to_ours(part) for part in parts]),), split)


def drop(theirs: str, reason: str) -> Rule:
    """Drops their tensors on import, since no model needs them; export does not restore them."""
    return Rule((theirs,), (), lambda *_: (), None, reason)


def leave(ours: str, reason: str) -> Rule:
    """Omits our tensors on export, since the layout has no place for them and its models do without."""
    return Rule((), (ours,), lambda: (), lambda *_: (), reason)


def constant(theirs: str, value: Tensor, reason: str, is_optional: bool = False) -> Rule:
    """A tensor of theirs whose value follows from the architecture; any other value is an error.

    Args:
        theirs: Name of the tensor.
        value: Expected value.
        reason: Why our model has no such tensor.
        is_optional: Whether some files of the layout lack it; export writes it only if the source had it.
    """

    def checked(tensor: Tensor) -> Tensors:
        if not tensor.is_meta and not torch.equal(tensor.to(value.dtype), value):
            raise ValueError(f"{theirs} has values of its own, which would be lost: expected {reason}")
        return ()

    return Rule((theirs,), (), checked, lambda: (value,), reason, is_optional)


def within(rules: Iterable[Rule], theirs: str = "", ours: str = "") -> list[Rule]:
    """Prefixes the names of all rules with `theirs` and `ours`."""
    return [
        replace(
            rule,
            theirs=tuple(theirs + pattern for pattern in rule.theirs),
            ours=tuple(ours + pattern for pattern in rule.ours),
        )
        for rule in rules
    ]


class Step(NamedTuple):
    """One rule applied to concrete tensor names.

    Args:
        inputs: Names of the tensors to read.
        outputs: Names of the tensors to make.
        run: Function from the inputs to the outputs.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[..., Tensors]


class Plan(NamedTuple):
    """Every step of a conversion.

    Args:
        steps: Steps in the order of the rules.
        dropped: Names of tensors without a counterpart, each with its reason.
    """

    steps: list[Step]
    dropped: dict[str, str]

    def outputs(self) -> set[str]:
        """Names of all tensors that the steps make."""
        return {name for step in self.steps for name in step.outputs}


class UnaccountedTensorsError(ValueError):
    """Raised if tensors match no rule."""


def plan_import(rules: Iterable[Rule], names: Iterable[str]) -> Plan:
    """Plans the import of a reference's tensors.

    Raises:
        UnaccountedTensorsError: If tensors match no rule; the message lists them.
    """
    remaining, steps, dropped = dict.fromkeys(names), [], {}
    for rule in rules:
        for found in matches(rule.theirs, remaining) if rule.theirs else ():
            inputs = filled(rule.theirs, found)
            steps.append(Step(inputs, filled(rule.ours, found), rule.to_ours))
            if not rule.ours:
                dropped.update(dict.fromkeys(inputs, rule.reason))
    refuse_unaccounted(remaining)
    return Plan(steps, dropped)


def plan_export(rules: Iterable[Rule], names: Iterable[str], constants: Iterable[str] | None = None) -> Plan:
    """Plans the export of our tensors to a reference's layout.

    Args:
        rules: The layout's table.
        names: Names of our tensors.
        constants: Names of the optional constants to write; default none.

    Raises:
        UnaccountedTensorsError: If the layout has no place for some tensors; the message lists them.
    """
    remaining, steps, dropped = dict.fromkeys(names), [], {}
    for rule in rules:
        if rule.to_theirs is None:
            continue
        if not rule.ours:
            if not rule.is_optional or rule.theirs[0] in (constants or ()):
                steps.append(Step((), rule.theirs, rule.to_theirs))
            continue
        for found in matches(rule.ours, remaining):
            inputs = filled(rule.ours, found)
            steps.append(Step(inputs, filled(rule.theirs, found), rule.to_theirs))
            if not rule.theirs:
                dropped.update(dict.fromkeys(inputs, rule.reason))
    refuse_unaccounted(remaining)
    return Plan(steps, dropped)


def matches(patterns: Sequence[str], remaining: dict[str, None]) -> list[dict[str, str]]:
    """Placeholder values of every complete match of all patterns; removes the matched names from `remaining`."""
    expression = compiled(patterns[0])
    candidates = [match.groupdict() for name in remaining if (match := expression.fullmatch(name))]
    complete = [found for found in candidates if all(name in remaining for name in filled(patterns, found))]
    for found in complete:
        for name in filled(patterns, found):
            del remaining[name]
    return complete


def compiled(pattern: str) -> re.Pattern:
    """Compiles a pattern to a regular expression."""
    expression = re.escape(pattern)
    for name, meaning in PLACEHOLDERS.items():
        expression = expression.replace(rf"\{{{name}\}}", f"(?P<{name}>{meaning})")
    return re.compile(expression)


def filled(patterns: Sequence[str], found: dict[str, str]) -> tuple[str, ...]:
    """Substitutes placeholder values into patterns, which gives tensor names."""
    names = []
    for pattern in patterns:
        for name, value in found.items():
            pattern = pattern.replace(f"{{{name}}}", value)
        names.append(pattern)
    return tuple(names)


def refuse_unaccounted(names: Iterable[str]) -> None:
    """Raises `UnaccountedTensorsError` if any names are left."""
    if names := list(names):
        raise UnaccountedTensorsError(f"{len(names)} tensors have no place: {listed(names)}")


def listed(names: Sequence[str], shown: int = 12) -> str:
    """Joins the first `shown` names for a message and counts the rest."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
