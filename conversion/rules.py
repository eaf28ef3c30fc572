"""The engine: a table of rules says how a layout's tensors become ours, and is read backward to write them again.

A rule names tensors by patterns, in which `{layer}` is a number, `{parameter}` is `weight` or `bias`, and `{rest}` is
anything. Planning a conversion looks at names alone and accounts for every one of them; carrying it out reads and
makes one rule's tensors at a time, on torch's meta device too, where shapes are checked before any number is read.
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
    """What happens to one tensor, and how it is undone."""

    to_ours: Callable[[Tensor], Tensor]
    to_theirs: Callable[[Tensor], Tensor]


SAME = Change(lambda tensor: tensor, lambda tensor: tensor)


def permuted(*order: int) -> Change:
    """Their dimensions in the order in which ours come."""
    back = [order.index(dimension) for dimension in range(len(order))]
    return Change(lambda tensor: tensor.permute(order), lambda tensor: tensor.permute(back))


def reshaped(theirs: Sequence[int], ours: Sequence[int]) -> Change:
    """The same numbers in the same order under another shape; -1 stands for what is left over."""
    return Change(lambda tensor: tensor.reshape(ours), lambda tensor: tensor.reshape(theirs))


def chained(*changes: Change) -> Change:
    """One change after another."""

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
    """Some of their tensors that become some of ours.

    Args:
        theirs: Patterns of their names.
        ours: Patterns of our names, with the same placeholders.
        to_ours: From their tensors to ours.
        to_theirs: The inverse; `None` where a dropped tensor can't be made again.
        reason: Why tensors have no counterpart, where that is so.
        is_optional: Whether files of the layout may lack the tensors of a constant.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    to_ours: Callable[..., Tensors]
    to_theirs: Callable[..., Tensors] | None
    reason: str = ""
    is_optional: bool = False


def rename(theirs: str, ours: str, change: Change = SAME) -> Rule:
    """One tensor that becomes one of ours."""
    return Rule(
        (theirs,), (ours,), lambda tensor: (change.to_ours(tensor),), lambda tensor: (change.to_theirs(tensor),)
    )


def fuse(theirs: Sequence[str], ours: str, change: Change = SAME) -> Rule:
    """Tensors of one shape, each changed, below one another in one of ours; the way back splits it."""

    def split(tensor: Tensor) -> Tensors:
        return tuple(change.to_theirs(part) for part in tensor.chunk(len(theirs)))

    return Rule(tuple(theirs), (ours,), lambda *parts: (torch.cat([change.to_ours(part) for part in parts]),), split)


def drop(theirs: str, reason: str) -> Rule:
    """Tensors that no model needs, and that are not written again."""
    return Rule((theirs,), (), lambda *_: (), None, reason)


def leave(ours: str, reason: str) -> Rule:
    """Tensors of ours that the layout has no place for and its models do without; they are not written."""
    return Rule((), (ours,), lambda: (), lambda *_: (), reason)


def constant(theirs: str, value: Tensor, reason: str, is_optional: bool = False) -> Rule:
    """A tensor whose value the architecture tells; another value is an error.

    Args:
        theirs: Its name.
        value: Its value.
        reason: Why ours has none.
        is_optional: Whether some files of the layout lack it; they lack it again once written.
    """

    def checked(tensor: Tensor) -> Tensors:
        if not tensor.is_meta and not torch.equal(tensor.to(value.dtype), value):
            raise ValueError(f"{theirs} has values of its own, which would be lost: expected {reason}")
        return ()

    return Rule((theirs,), (), checked, lambda: (value,), reason, is_optional)


def within(rules: Iterable[Rule], theirs: str = "", ours: str = "") -> list[Rule]:
    """The same rules for tensors whose names have something in front."""
    return [
        replace(
            rule,
            theirs=tuple(theirs + pattern for pattern in rule.theirs),
            ours=tuple(ours + pattern for pattern in rule.ours),
        )
        for rule in rules
    ]


class Step(NamedTuple):
    """One rule's work on tensors of certain names.

    Args:
        inputs: Names of the tensors that are read.
        outputs: Names of those that are made.
        run: From the first to the second.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: Callable[..., Tensors]


class Plan(NamedTuple):
    """Every step of a conversion.

    Args:
        steps: In the rules' order.
        dropped: Tensors without counterpart and the reasons.
    """

    steps: list[Step]
    dropped: dict[str, str]

    def outputs(self) -> set[str]:
        """Names of all tensors that are made."""
        return {name for step in self.steps for name in step.outputs}


class UnaccountedTensorsError(ValueError):
    """Tensors that no rule names."""


def plan_import(rules: Iterable[Rule], names: Iterable[str]) -> Plan:
    """How tensors of a reference become ours.

    Raises:
        UnaccountedTensorsError: If there are tensors that no rule names; the message lists them.
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
    """How our tensors become those of a reference.

    Args:
        rules: The layout's table.
        names: Names of our tensors.
        constants: Names of the optional constants to write; `None` is none of them.

    Raises:
        UnaccountedTensorsError: If there are tensors that the layout has no place for; the message lists them.
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
    """What the placeholders stand for wherever all patterns have a tensor, which then no longer remains."""
    expression = compiled(patterns[0])
    candidates = [match.groupdict() for name in remaining if (match := expression.fullmatch(name))]
    complete = [found for found in candidates if all(name in remaining for name in filled(patterns, found))]
    for found in complete:
        for name in filled(patterns, found):
            del remaining[name]
    return complete


def compiled(pattern: str) -> re.Pattern:
    """The regular expression of a pattern."""
    expression = re.escape(pattern)
    for name, meaning in PLACEHOLDERS.items():
        expression = expression.replace(rf"\{{{name}\}}", f"(?P<{name}>{meaning})")
    return re.compile(expression)


def filled(patterns: Sequence[str], found: dict[str, str]) -> tuple[str, ...]:
    """Names: patterns with what the placeholders stand for."""
    names = []
    for pattern in patterns:
        for name, value in found.items():
            pattern = pattern.replace(f"{{{name}}}", value)
        names.append(pattern)
    return tuple(names)


def refuse_unaccounted(names: Iterable[str]) -> None:
    """Raises where tensors are left over."""
    if names := list(names):
        raise UnaccountedTensorsError(f"{len(names)} tensors have no place: {listed(names)}")


def listed(names: Sequence[str], shown: int = 12) -> str:
    """Names for a message, the first few of many."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
