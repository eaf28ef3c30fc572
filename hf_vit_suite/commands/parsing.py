"""Parsers of dataclasses: transformers' HfArgumentParser with a file of arguments and grouped help."""

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..options import refuse_unknown

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
            # Of TrainingArguments only what a recipe declares itself.
            names = vars(kind).get("__annotations__", {}) if group == OPTIMISATION else kind.__dataclass_fields__
            self.group_of |= dict.fromkeys(names, group)
        if OPTIMISATION in groups:
            self.group_of |= GROUP_OF
        self.titles = list(dict.fromkeys([*groups, OPTIMISATION, SAVING]))
        self.shows_all = False
        theirs = TrainingArguments.__dataclass_fields__
        for action in self._actions:
            if action.dest in theirs and action.help == theirs[action.dest].metadata.get("help"):
                action.help = SHORT_HELP.get(action.dest, action.help)
        self.add_argument(
            "--config", type=Path, metavar="FILE", help="YAML or JSON file of arguments; flags override it"
        )
        if OPTIMISATION in groups:
            self.add_argument("--help-all", action=HelpAll, nargs=0, help="show every option, TrainingArguments' too")

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


def read_config(path: Path, known: Sequence[str]) -> dict[str, Any]:
    """Arguments from a file; JSON is YAML too.

    Raises:
        ValueError: If the file can't be read or names an unknown argument.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ValueError(f"--config {path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"--config {path} must hold names and values, got {type(values).__name__}")
    refuse_unknown([str(name) for name in values], known, f"--config {path}")
    return values
