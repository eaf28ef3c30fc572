"""Finds the weights in a training checkpoint: which tensors belong to one model, and what else the file holds.

Training programs save weights in dictionaries (`model`, `state_dict`), under prefixes of modules (`backbone.`) and
wrappers (`module.`, `_orig_mod.`), beside heads, optimizers, averaged weights and a second network. A model is found
by a tensor that every layout has, such as `cls_token`, wherever it is; the text before that name is its prefix.
"""

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

from .pickles import CONSOLIDATE, WeightFileError
from .reading import Source

# Parts of names that wrappers of modules add: DistributedDataParallel, torch.compile, FSDP, activation checkpointing,
# Lightning's strategies.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# The lazy prefix leaves as much as possible to the layouts' own names, which some begin with the base model's name.
ANCHOR = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:cls_token|visual\.class_embedding|vision_model\.embeddings\.class_embedding"
    r"|(?:(?:vit|deit|dinov2|dinov2_with_registers)\.)?embeddings\.cls_token)"
)
# Entries that hold a model in most training programs, the usual first; the empty one is the file itself.
CONTAINERS = ("", "model", "state_dict", "model_state_dict", "net", "network")
AVERAGED = re.compile(
    r"(?:(?<![a-z])|(?<=model))(ema|swa|polyak|avg|averaged?|momentum|target|shadow|encoder_k)(?![a-z])"
)
# Parts of a model that only its training needs: projection heads, losses, and the counter of averaged models.
TRAINING_PART = re.compile(
    r"(\w*loss\w*|\w*criterion\w*|\w*metrics?|n_averaged|(dino|ibot)_head|projector|projection_head|predictor)(\..*)?"
    r"|head\.(\d+|mlp|last_layer\d?)\..*"
)
CHUNKED = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
FLAT_SHARD = re.compile(r"(.*\.)?_?flat_param(_\d+)?")
JOINT = ("teacher.backbone.cls_token", "student.backbone.cls_token", "teacher.head.mlp.0.weight", "dino_loss.center")


class Role(IntEnum):
    """What a set of weights is, in the order of preference."""

    JOINT = 0
    PLAIN = 1
    TEACHER = 2
    STUDENT = 3
    AVERAGED = 4


MEANING = {
    Role.JOINT: "student and teacher",
    Role.PLAIN: "plain weights",
    Role.TEACHER: "the teacher",
    Role.STUDENT: "the student",
    Role.AVERAGED: "averaged weights",
}


class WeightSet(NamedTuple):
    """The tensors of one model in a file.

    Args:
        path: Prefix of its names without wrappers, such as `"teacher.backbone"`; empty if it is the whole file.
        names: Names in the file by the layout's names.
        role: What the weights are.
        root: The dictionary entry that holds the model, such as `"model."`, as layouts know it; empty without one.
    """

    path: str
    names: dict[str, str]
    role: Role
    root: str

    def preference(self) -> tuple[int, int, int]:
        """Sorts sets: by role, then the usual entry, then the shortest path."""
        entry = self.root.rstrip(".")
        place = CONTAINERS.index(entry) if entry in CONTAINERS else len(CONTAINERS)
        return self.role, place, len(parts_of(self.path))


class ChosenWeights(Source):
    """One set of weights of a source, under the layout's names.

    Args:
        source: The file.
        chosen: The set.
    """

    def __init__(self, source: Source, chosen: WeightSet):
        super().__init__(source.path)
        self.source, self.chosen = source, chosen
        self.kind, self.root = source.kind, source.root + chosen.root

    def names(self) -> list[str]:
        return list(self.chosen.names)

    def describe(self, name: str) -> Tensor:
        return self.source.describe(self.chosen.names[name])

    def read(self, name: str) -> Tensor:
        return self.source.read(self.chosen.names[name])


def weight_sets(source: Source, weights: str | None = None) -> list[WeightSet]:
    """The sets of weights in a file, the preferred first.

    Args:
        source: The file.
        weights: The set to take, by its path, the first parts or one part of it, or `"ema"` for averaged weights.

    Raises:
        WeightFileError: If the file holds only a part of the weights, or has no such set.
    """
    names = without_wrappers(source.names())
    if shard := next((name for name in names if FLAT_SHARD.fullmatch(name)), None):
        raise WeightFileError(f"{source.path} holds one process's shard of the weights ({shard}): {CONSOLIDATE}")
    found = {}
    for name, stored in names.items():
        if anchor := ANCHOR.fullmatch(name):
            refuse_part(source, stored)
            found[anchor["prefix"]] = ".".join(parts_of(source.container(stored)))
    sets = [one_set(prefix, entry, names, found) for prefix, entry in found.items()]
    sets = sorted([*joint_sets(names, sets), *sets], key=WeightSet.preference)
    if weights is None:
        return sets or [unprefixed(source, names)]
    if wanted := [one for one in sets if is_meant(one, weights)]:
        return wanted
    there = ", ".join(one.path for one in sets if one.path) or "one set only"
    raise WeightFileError(f"{source.path} has no weights {weights!r} (there: {there}): choose one, --weights NAME")


def parts_of(name: str) -> list[str]:
    """Parts of a name, without those of wrappers."""
    return [part for part in name.split(".") if part and part not in WRAPPERS]


def without_wrappers(stored: Iterable[str]) -> dict[str, str]:
    """Stored names by names without wrappers; a name that would then occur twice stays as it is."""
    names: dict[str, str] = {}
    for name in stored:
        short = ".".join(parts_of(name))
        names[name if short in names else short] = name
    return names


def refuse_part(source: Source, anchor: str) -> None:
    """Raises `WeightFileError` if a sharded training saved the tensor, which is then empty or flat."""
    shape = source.describe(anchor).shape
    is_flat = anchor.endswith("cls_token") and len(shape) < 2
    if is_flat or not shape.numel():
        raise WeightFileError(
            f"{source.path} holds one process's shard of the weights ({anchor} {list(shape)}): {CONSOLIDATE}"
        )


def one_set(prefix: str, entry: str, names: dict[str, str], prefixes: Iterable[str]) -> WeightSet:
    """The set under a prefix, without sets that are nested in it.

    Args:
        prefix: Prefix of its names, without wrappers.
        entry: Path of the dictionary entry that holds it; empty if there is none.
        names: Stored names by names without wrappers.
        prefixes: Prefixes of all sets.
    """
    nested = tuple(other for other in prefixes if other.startswith(prefix) and other != prefix)
    own = {
        name.removeprefix(prefix): stored
        for name, stored in names.items()
        if name.startswith(prefix) and not (nested and name.startswith(nested))
    }
    own = {name: stored for name, stored in own.items() if not TRAINING_PART.fullmatch(name)}
    path = prefix.rstrip(".")
    role = role_of(path)
    return WeightSet(path, without_chunks(own), role, root_of(entry, role))


def role_of(path: str) -> Role:
    """What the weights under a path are, by the words in it."""
    path = path.lower()
    if AVERAGED.search(path):
        return Role.AVERAGED
    return Role.TEACHER if "teacher" in path else Role.STUDENT if "student" in path else Role.PLAIN


def root_of(entry: str, role: Role) -> str:
    """The dictionary entry as layouts know it: of averaged weights the plain one's; none for self-distillation."""
    if role in (Role.TEACHER, Role.STUDENT):
        return ""
    words = AVERAGED.sub("", entry.rpartition(".")[2].lower())
    return f"{words.strip('_')}." if words.strip("_") else ""


def without_chunks(names: dict[str, str]) -> dict[str, str]:
    """Renames DINOv2's `blocks.CHUNK.LAYER.` to `blocks.LAYER.`; layers that each chunk counts from 0 count on."""
    found = {name: match for name in names if (match := CHUNKED.fullmatch(name))}
    if not found or len(found) < sum(name.startswith("blocks.") for name in names):
        return names
    places = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    layers = {place: place[1] for place in places}
    if len(set(layers.values())) < len(places):
        layers = {place: layer for layer, place in enumerate(places)}
    return {
        f"blocks.{layers[int(match[1]), int(match[2])]}.{match[3]}" if (match := found.get(name)) else name: stored
        for name, stored in names.items()
    }


def joint_sets(names: dict[str, str], sets: Sequence[WeightSet]) -> list[WeightSet]:
    """DINO's full checkpoints: student, teacher and center together, which continue as one model."""
    joint = []
    for prefix in [one.path.removesuffix("teacher.backbone") for one in sets if one.role == Role.TEACHER]:
        if all(prefix + name in names for name in JOINT):
            wanted = tuple(prefix + start for start in ("teacher.", "student.", JOINT[-1]))
            own = {name.removeprefix(prefix): stored for name, stored in names.items() if name.startswith(wanted)}
            joint.append(WeightSet(prefix.rstrip("."), own, Role.JOINT, ""))
    return joint


def unprefixed(source: Source, names: dict[str, str] | None = None) -> WeightSet:
    """The tensors of a file in which no model is found: those of its usual entry, else all."""
    names = names or without_wrappers(source.names())
    entries = {name: ".".join(parts_of(source.container(stored))) for name, stored in names.items()}
    entry = next((entry for entry in CONTAINERS[1:] if entry in entries.values()), "")
    prefix = f"{entry}." if entry else ""
    own = {name.removeprefix(prefix): stored for name, stored in names.items() if name.startswith(prefix)}
    return WeightSet(entry, own, Role.PLAIN, prefix)


def is_meant(one: WeightSet, weights: str) -> bool:
    """Whether the user's choice means a set."""
    wanted = ".".join(parts_of(weights))
    if wanted == "ema":
        return one.role == Role.AVERAGED
    return f"{one.path}.".startswith(f"{wanted}.") or wanted in one.path.split(".")


def notes_on(source: Source, chosen: WeightSet, others: Sequence[WeightSet]) -> list[str]:
    """Lines that state which weights were taken, which others the file holds, and what was left aside.

    Args:
        source: The file.
        chosen: The set that was taken.
        others: Other sets that could have been taken.
    """
    taken = set(chosen.names.values()).union(*(one.names.values() for one in others))
    aside = [name for name in [*source.names(), *source.other_values()] if name not in taken]
    ways = [one.path.split(".") for one in (chosen, *others)]
    aside = list(dict.fromkeys(beside(ways, name) for name in aside))
    lines = []
    if others or (aside and chosen.path):
        lines.append(f"took {chosen.path or 'the weights of the whole file'} ({MEANING[chosen.role]})")
    for one in others:
        lines.append(f"there too: {one.path} ({MEANING[one.role]}); --weights {one.path} takes them")
    if aside:
        lines.append(f"left aside: {', '.join(aside)}")
    return lines


def beside(ways: Sequence[Sequence[str]], name: str) -> str:
    """The shortest beginning of a name that leads to no weights.

    Args:
        ways: Parts of the paths of all weights.
        name: Name in the file.
    """
    parts = parts_of(name)
    for length in range(1, len(parts)):
        if not any(parts[:length] == way[:length] for way in ways):
            return ".".join(parts[:length])
    return ".".join(parts) or name
