"""Exports a model of the suite to a reference's layout: a file, or a folder for transformers."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from hf_vit_suite.output import staged_file, staged_folder

from .layout import HEAD, Form, Layout
from .layouts import get_layout
from .locating import Located, locate
from .reading import open_weights
from .rules import UnaccountedTensorsError, plan_export
from .writing import RECORD, in_turn, progress_of, write_numpy, write_safetensors, write_torch


def export_reference(
    model_dir: str | os.PathLike,
    path: str | os.PathLike,
    layout: str,
    dtype: torch.dtype | None = None,
    head: str | os.PathLike | None = None,
    show_progress: bool = False,
) -> dict[str, str]:
    """Writes a model of the suite in a reference's layout.

    Args:
        model_dir: Folder or Hub name of a model of the suite.
        path: File to write; a folder for transformers' layouts.
        layout: Name of the layout.
        dtype: Dtype of the written floating-point weights; default each tensor's own.
        head: File for the classifier, if the layout stores it separately from the backbone.
        show_progress: Whether to show a progress bar.

    Returns:
        Names of our tensors that were not written, since the layout has no place for them, each with its reason.

    Raises:
        ValueError: If the layout has no place for the model; nothing is written.
    """
    located = locate(model_dir)
    if not str(located.settings.get("model_type", "")).startswith("suite_"):
        raise ValueError(f"{model_dir} is no model of the suite: convert it first")
    config = AutoConfig.from_pretrained(located.folder)
    source = open_weights(located.weights)
    record = json.loads(source.metadata().get(RECORD, "{}"))
    record = record if record.get("layout") == layout else {}
    form = form_for(get_layout(layout), config, record)
    try:
        plan = plan_export(form.rules(config), source.names(), record.get("constants"))
    except UnaccountedTensorsError as error:
        raise ValueError(f"{model_dir} does not fit the layout {layout}: {error}") from error
    planned = dict(in_turn(plan.steps, source.describe, dtype))
    check_target(form, Path(path), head, layout)
    tensors = progress_of(in_turn(plan.steps, source.read, dtype), planned, show_progress)
    write_reference(form, config, Path(path), head, planned, tensors, record.get("root", form.root), located)
    return plan.dropped


def form_for(layout: Layout, config: PretrainedConfig, record: dict[str, Any]) -> Form:
    """The form to write: the form that the model was imported from, else the first that can hold it.

    Raises:
        ValueError: If no form can hold the model.
    """
    (architecture,) = config.architectures
    forms = [form for form in layout.forms if form.model.__name__ == architecture and form.holds(config)]
    if not forms:
        raise ValueError(f"the layout {layout.name} has no form for this {architecture}")
    return next((form for form in forms if form.name == record.get("form")), forms[0])


def check_target(form: Form, path: Path, head: str | os.PathLike | None, layout: str) -> None:
    """Raises `ValueError` if the file's suffix does not suit the form, or `head` is missing or not needed."""
    if form.settings is not None:
        return
    allowed = [".npz"] if form.suffix == ".npz" else [".pth", ".pt", ".bin"]
    if form.suffix != ".npz" and not (form.root or form.is_nested):
        allowed.append(".safetensors")
    if path.suffix not in allowed:
        raise ValueError(f"{path} must end with {' or '.join(allowed)} in the layout {layout}")
    if (form.head_root is not None) != (head is not None):
        raise ValueError(
            f"{path}: the layout {layout} keeps the classifier in a file of its own: name it, --head FILE"
            if head is None
            else f"{head} would be empty: this model has no classifier that the layout {layout} keeps apart"
        )


def write_reference(
    form: Form,
    config: PretrainedConfig,
    path: Path,
    head: str | os.PathLike | None,
    planned: dict[str, Tensor],
    tensors: Iterable[tuple[str, Tensor]],
    root: str,
    located: Located,
) -> None:
    """Writes a file, or a folder if the form has settings."""
    if form.settings is not None:
        with staged_folder(path) as staging:
            settings = json.dumps(form.settings(config), indent=2) + "\n"
            (staging / "config.json").write_text(settings)
            write_safetensors(staging / "model.safetensors", planned, tensors, {"format": "pt"})
            copy_processors(located, staging)
        return
    with staged_file(path) as staging:
        if path.suffix == ".npz":
            write_numpy(staging, tensors, root)
        elif path.suffix == ".safetensors":
            write_safetensors(staging, planned, tensors, {"format": "pt"})
        elif head is None:
            write_torch(staging, tensors, root, form.is_nested)
        else:
            everything = dict(tensors)
            heads = {name: everything.pop(name) for name in list(everything) if name.startswith(HEAD)}
            write_torch(staging, everything.items(), root, form.is_nested)
            with staged_file(head) as staged_head:
                named = ((name.removeprefix(HEAD), tensor) for name, tensor in heads.items())
                write_torch(staged_head, named, form.head_root, is_nested=False)


PROCESSOR_FILES = (
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)


def copy_processors(located: Located, folder: Path) -> None:
    """Copies image processor and tokenizer unchanged: the suite uses transformers' own classes for both."""
    for file in PROCESSOR_FILES:
        if (located.folder / file).is_file():
            (folder / file).write_bytes((located.folder / file).read_bytes())
