"""Parsers of dataclasses: transformers' HfArgumentParser with a file of arguments and grouped help."""

import argparse
import inspect
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments
from transformers.hf_argparser import string_to_bool

from ..options import checked_values, option_names, refuse_unknown

OPTIMISATION, SAVING = "optimisation", "saving and publishing"
GENERAL, REST = "general", "other arguments of transformers' TrainingArguments"
# The fields of TrainingArguments that people set, and our own that are neither model, data nor augmentation.
GROUP_OF = {
    **dict.fromkeys(
        (
            "num_train_epochs",
            "max_steps",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "warmup_steps",
            "weight_decay",
            "bf16",
            "dataloader_num_workers",
            "seed",
            "layer_decay",
            "ema_decay",
            "early_stopping_patience",
            "teacher",
            "distillation",
            "distillation_alpha",
            "distillation_temperature",
        ),
        OPTIMISATION,
    ),
    **dict.fromkeys(
        (
            "output_dir",
            "overwrite_output_dir",
            "resume_from_checkpoint",
            "save_strategy",
            "report_to",
            "push_to_hub",
            "hub_model_id",
            "preview_steps",
            "knn_steps",
        ),
        SAVING,
    ),
}
# One line each where transformers' own text is a paragraph.
SHORT_HELP = {
    "max_steps": "number of steps, in place of the default number of epochs",
    "gradient_accumulation_steps": "batches per step of the optimiser",
    "learning_rate": "peak learning rate of AdamW; default by what is trained",
    "bf16": "bfloat16 mixed precision",
    "seed": "seed of weights, splits, order and augmentation",
    "resume_from_checkpoint": "checkpoint folder to resume from, or last",
    "push_to_hub": "push the finished folder to the Hub",
    "hub_model_id": "repository on the Hub; default the folder's name",
}
TRUTH_VALUES = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}
METAVARS = {int: "N", float: "X", str: "TEXT"}


class OptionFormatter(argparse.HelpFormatter):
    """One name and a short value per option, and its default if the text does not name it."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=38, width=min(shutil.get_terminal_size((110, 24)).columns, 119))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return action.metavar or action.dest
        name = next(name for name in action.option_strings if name.startswith("--"))
        is_flag = action.nargs == 0 or action.const is True
        value = "" if is_flag else f"{{{','.join(map(str, action.choices))}}}" if action.choices else None
        if value is None:
            value = action.metavar or METAVARS.get(action.type, "TEXT")
        return f"{name} {value}{' ...' if action.nargs in ('+', '*') else ''}".rstrip()

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_plain = action.default in (None, False, "", argparse.SUPPRESS) or action.default == []
        if is_plain or "default" in text.lower() or not action.option_strings:
            return text
        return f"{text} (default {'on' if action.default is True else '%(default)s'})"


class HelpAll(argparse.Action):
    """Prints every option and exits."""

    def __call__(self, parser: "GroupedParser", *arguments: Any) -> None:
        parser.shows_all = True
        parser.print_help()
        parser.exit()


class GroupedParser(HfArgumentParser):
    """Parser of dataclasses whose help shows the options that people set, by group.

    Args:
        groups: Dataclasses by the group that their fields belong to, but for those in `GROUP_OF`.
        prog: The command.
        description: One sentence.
    """

    def __init__(self, groups: Mapping[str, type], prog: str, description: str):
        super().__init__(list(groups.values()), prog=prog, description=description, formatter_class=OptionFormatter)
        self.group_of = {}
        for group, kind in groups.items():
            names = list(kind.__dataclass_fields__)
            if group == OPTIMISATION:  # of transformers' arguments only those that the recipe declares itself
                declared = inspect.get_annotations(kind)
                names = [
                    name for name in names if name in declared or name not in TrainingArguments.__dataclass_fields__
                ]
            self.group_of |= dict.fromkeys(names, group)
        if OPTIMISATION in groups:
            self.group_of |= GROUP_OF
        self.titles = list(dict.fromkeys([*groups, OPTIMISATION, SAVING]))
        self.shows_all = False
        theirs = TrainingArguments.__dataclass_fields__
        for action in list(self._actions):
            if action.type is string_to_bool and action.nargs is None:  # a flag whose default follows from others
                action.nargs, action.const = "?", True
                self.add_argument(
                    f"--no_{action.dest}", action="store_false", dest=action.dest, default=argparse.SUPPRESS
                )
            if action.dest in theirs and action.help == theirs[action.dest].metadata.get("help"):
                action.help = SHORT_HELP.get(action.dest, action.help)
        self.add_argument(
            "--config", type=Path, metavar="FILE", help="YAML or JSON file of arguments; flags override it"
        )
        if OPTIMISATION in groups:
            self.add_argument("--help-all", action=HelpAll, nargs=0, help="show every option, TrainingArguments' too")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """argparse's, but a bare flag does not take the word behind it for its value."""
        actions = [action for action in self._actions if action.type is string_to_bool]
        flags = {name for action in actions for name in action.option_strings}
        words = list(sys.argv[1:] if args is None else args)
        explicit = []
        for word, following in zip(words, [*words[1:], ""], strict=False):
            explicit.append(word)
            if word in flags and following.lower() not in TRUTH_VALUES:
                explicit.append("True")
        return super().parse_known_args(explicit, namespace)

    def format_usage(self) -> str:
        return f"usage: {self.prog} [options], which --help lists\n"

    def take_defaults(self, values: Mapping[str, Any]) -> None:
        """Sets defaults from a file of arguments; an option that it gives is no longer required."""
        self.set_defaults(**values)
        for action in self._actions:
            action.required = action.required and action.dest not in values

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_text(f"{self.prog}: {self.description}")
        sections: dict[str, list[argparse.Action]] = {title: [] for title in (GENERAL, *self.titles, REST)}
        for action in self._actions:
            is_general = action.dest in ("config", "help", "help_all") or not action.option_strings
            title = GENERAL if is_general else self.group_of.get(action.dest, REST)
            if self.shows_all or not (title == REST or is_negation(action)):
                sections[title].append(action)
        for title, actions in sections.items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()


def is_negation(action: argparse.Action) -> bool:
    """Whether an action is the `--no_name` of a flag that is on by default."""
    return isinstance(action, argparse._StoreFalseAction)


def command_line(command: str, arguments: Sequence[str], token: str | None) -> str:
    """A command line without the Hub token.

    Args:
        command: What follows `hf-vit-suite`.
        arguments: The arguments that were parsed.
        token: The Hub token, replaced by *** wherever it occurs.
    """
    shown = [argument.replace(token, "***") for argument in arguments] if token else arguments
    return shlex.join(["hf-vit-suite", *command.split(), *shown])


def config_file(arguments: Sequence[str]) -> Path | None:
    """The file that `--config` names; None without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    return parser.parse_known_args(arguments)[0].config


def read_config(path: Path, kinds: Sequence[type]) -> dict[str, Any]:
    """Arguments from a file; JSON is YAML too.

    Args:
        path: The file.
        kinds: Dataclasses of the arguments.

    Raises:
        ValueError: If the file can't be read, names an unknown argument, or a value is of another kind.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold names and values, got {type(values).__name__}")
    refuse_unknown([str(name) for name in values], option_names(kinds), f"--config {path}")
    try:
        return checked_config(kinds, values)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from error


def checked_config(kinds: Sequence[type], values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks values as those of a call are; numbers and truth values that YAML reads as text stay for the parser."""
    checked: dict[str, Any] = {}
    for kind in kinds:
        hints = get_type_hints(kind)
        texts = {name: value for name, value in values.items() if isinstance(value, str) and is_plain(hints.get(name))}
        rest = {name: value for name, value in values.items() if name not in texts}
        checked |= checked_values(kind, rest) | {name: value for name, value in texts.items() if name in hints}
    return checked


def is_plain(hint: Any) -> bool:
    """Whether a type is a number or a truth value, or None besides."""
    return any(part in (int, float, bool) for part in (hint, *get_args(hint)))
