"""Converts reference weights to a folder that loads through AutoModel."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

import hf_vit_suite
from hf_vit_suite.config_overrides import merged_fields, nested_fields
from hf_vit_suite.models.presets import PRESETS, preset_config
from hf_vit_suite.output import staged_folder

from .checkpoints import MEANING, ChosenWeights, WeightSet, notes_on, unprefixed, weight_sets
from .layout import HEAD, Evidence, Form, Layout
from .layouts import all_layouts, get_layout
from .locating import Located, locate
from .reading import Source, open_weights
from .rules import Plan, UnaccountedTensorsError, listed, plan_import
from .surroundings import label_fields, write_processors
from .writing import RECORD, cast, in_turn, progress_of, write_safetensors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """Recognised reference weights and the plan of their conversion, before any tensor value is read.

    Args:
        located: Weight file and the files next to it.
        sources: The weight file and, if separate, the classifier's file.
        evidence: Information about the sources.
        layout: Layout of the weights.
        form: Form within the layout.
        config: Our configuration.
        plan: Conversion steps.
        planned: Our tensors on the meta device, which have shapes and dtypes only.
        notes: Lines that state which of a checkpoint's weights were taken and what was left aside.
    """

    located: Located
    sources: tuple[Source, ...]
    evidence: Evidence
    layout: Layout
    form: Form
    config: PretrainedConfig
    plan: Plan
    planned: dict[str, Tensor]
    notes: list[str]

    def read(self, name: str) -> Tensor:
        """Reads one of the reference's tensors."""
        if name.startswith(HEAD):
            return self.sources[1].read(name.removeprefix(HEAD))
        return self.sources[0].read(name)

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Our tensors, converted one step at a time."""
        return in_turn(self.plan.steps, self.read, dtype)


def open_reference(
    source: str | os.PathLike,
    layout: str | None = None,
    preset: str | None = None,
    head: str | os.PathLike | None = None,
    config_overrides: dict[str, Any] | None = None,
    weights: str | None = None,
) -> Reference:
    """Recognises a reference's weights and plans their conversion.

    Args:
        source: File, folder or Hub name.
        layout: Layout of the source; default recognised.
        preset: Name of a preset architecture; default recognised from shapes.
        head: File of a linear classifier, which DINO and DINOv2 publish separately from the backbone.
        config_overrides: Config fields that override those read from the weights; fields of a nested config as a
            dictionary, or as in `{"vision_config.num_attention_heads": 8}`.
        weights: Which weights of a training checkpoint to take, such as `"ema"`, `"student"` or the name of their
            entry; default the plain weights, and the teacher of a teacher and a student.

    Raises:
        ValueError: If nothing is found, a file can't be read, no layout suits, or tensors are unknown, missing or of
            other shapes than the architecture's; the message lists them.
    """
    return open_located(locate(source, layout), layout, preset, head, config_overrides, weights)


def open_located(
    located: Located,
    layout: str | None = None,
    preset: str | None = None,
    head: str | os.PathLike | None = None,
    config_overrides: dict[str, Any] | None = None,
    weights: str | None = None,
) -> Reference:
    """As `open_reference`, for files that are already located."""
    named, own = preset_fields(preset), nested_fields(config_overrides or {})
    reading = read_names(located, layout, head, weights, merged_fields(named, own))
    form, evidence = reading.form, reading.evidence
    check_fields(form.model.config_class(), own)  # before the architecture is computed from them
    config = with_overrides(architecture(form, evidence, located), named, own)
    config = type(config)(**{**config.to_dict(), **label_fields(config, evidence.settings)})
    plan, planned = planned_import(form, config, reading.described, located)
    return Reference(located, reading.sources, evidence, reading.layout, form, config, plan, planned, reading.notes)


class Reading(NamedTuple):
    """A set of weights in a file, as a layout reads it.

    Args:
        sources: The weights and, if separate, the classifier's file.
        described: Tensors on the meta device by name.
        evidence: Information about the sources.
        layout: Layout of the weights.
        form: Form within the layout.
        notes: Lines on the choice among the file's weights.
    """

    sources: tuple[Source, ...]
    described: dict[str, Tensor]
    evidence: Evidence
    layout: Layout
    form: Form
    notes: list[str]


def read_names(
    located: Located,
    layout: str | None,
    head: str | os.PathLike | None,
    weights: str | None,
    overrides: dict[str, Any],
) -> Reading:
    """Finds the preferred set of weights that a layout recognises.

    Args:
        located: The weight file and the files next to it.
        layout: Layout of the source; default recognised.
        head: File of a separate linear classifier.
        weights: Which of the file's weights to take; default the preferred.
        overrides: Config fields that the user overrides.

    Raises:
        ValueError: If no layout recognises any set, or several equally preferred sets.
    """
    file = open_weights(located.weights)
    heads = () if head is None else (open_weights(Path(head)),)
    heads = tuple(ChosenWeights(opened, unprefixed(opened)) for opened in heads)
    readings, failure = [], None
    for chosen in weight_sets(file, weights):
        sources = (ChosenWeights(file, chosen), *heads)
        described = described_by(sources)
        evidence = Evidence(
            shapes={name: tuple(tensor.shape) for name, tensor in described.items()},
            root=sources[0].root,
            kind=file.kind,
            settings=located.settings,
            name=f"{located.name} {file.told_name()}".strip(),
            overrides=overrides,
        )
        try:
            readings.append((chosen, Reading(sources, described, evidence, *recognise(evidence, layout, located), [])))
        except ValueError as error:
            failure = failure or error
    if not readings:
        raise failure
    refuse_equal(located, [one for one, _ in readings])
    (chosen, reading), *others = readings
    return reading._replace(notes=notes_on(file, chosen, [one for one, _ in others]))


def described_by(sources: Sequence[Source]) -> dict[str, Tensor]:
    """Tensors of the weights and of a separate classifier on the meta device, by the names that rules use."""
    prefixes = ("", HEAD)
    return {
        prefix + name: source.describe(name)
        for prefix, source in zip(prefixes, sources, strict=False)
        for name in source.names()
    }


def refuse_equal(located: Located, sets: Sequence[WeightSet]) -> None:
    """Raises `ValueError` if no rule prefers the first of several sets of weights."""
    equal = [one for one in sets if one.preference() == sets[0].preference()]
    if len(equal) > 1:
        names = ", ".join(f"{one.path} ({MEANING[one.role]})" for one in equal)
        raise ValueError(f"{located.weights} holds several models, {names}: choose one, --weights {equal[0].path}")


def architecture(form: Form, evidence: Evidence, located: Located) -> PretrainedConfig:
    """Our configuration for a source; its errors name the file."""
    try:
        return form.config(evidence)
    except KeyError as error:
        raise ValueError(f"{located.weights} lacks {error.args[0]}, from which its architecture is read") from error
    except (ValueError, IndexError) as error:
        raise ValueError(f"{located.weights} ({form.name}): {error}") from error


def preset_fields(preset: str | None) -> dict[str, Any]:
    """Fields that a preset sets, without `num_labels`, which the weights determine."""
    if preset is None:
        return {}
    preset_config(preset)  # raises if there is no such preset
    return {name: value for name, value in PRESETS[preset][1].items() if name != "num_labels"}


def with_overrides(config: PretrainedConfig, preset: dict[str, Any], own: dict[str, Any]) -> PretrainedConfig:
    """Applies a preset's fields, as far as the config's class has them, then the user's overrides."""
    if not (preset or own):
        return config
    fields = config.to_dict()
    of_class = {name: value for name, value in preset.items() if name in fields}
    return type(config)(**merged_fields(fields, merged_fields(of_class, own)))


def check_fields(config: PretrainedConfig, overrides: dict[str, Any], parent: str = "") -> None:
    """Validates the user's overrides against a configuration's fields.

    Args:
        config: Any instance of the class that is overridden.
        overrides: Config fields; those of a nested config are nested.
        parent: Prefix of the nested config, such as `"vision_config."`.

    Raises:
        ValueError: If a field does not exist or a value has the wrong kind.
    """
    fields, kind = config.to_dict(), type(config).__name__
    for name, value in overrides.items():
        if name not in fields:
            raise ValueError(f"{kind} has no field {name}")
        current, field = getattr(config, name, None), f"{parent}{name}"
        if isinstance(current, PretrainedConfig):
            if not isinstance(value, dict):
                raise ValueError(f"{field} is a config, got {value!r}: set its fields, e.g. {field}.hidden_size=64")
            check_fields(current, value, f"{field}.")
        elif isinstance(value, dict) and not isinstance(current, dict):
            raise ValueError(f"{field} of {kind} has no fields of its own, got {value!r}: give it one value")
        elif is_number(current) and not (is_number(value) or (name == "image_size" and isinstance(value, list))):
            raise ValueError(f"{field} of {kind} must be a number, got {value!r}")


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, but not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def recognise(evidence: Evidence, layout: str | None, located: Located) -> tuple[Layout, Form]:
    """Layout and form of a source.

    Raises:
        ValueError: If no layout recognises the source.
    """
    for candidate in all_layouts() if layout is None else [get_layout(layout)]:
        if form := candidate.form_of(evidence):
            return candidate, form
    names = listed(list(evidence.shapes), shown=5)
    if layout is not None:
        raise ValueError(f"{located.weights} is not laid out as {layout} (it has {names})")
    model_type = evidence.settings.get("model_type")
    kind = f" of model type {model_type}" if model_type else ""
    raise ValueError(f"{located.weights} holds no architecture{kind} that any layout knows (it has {names})")


def planned_import(
    form: Form, config: PretrainedConfig, described: dict[str, Tensor], located: Located
) -> tuple[Plan, dict[str, Tensor]]:
    """Plans the steps and checks the names and shapes of our tensors against the model's."""
    try:
        plan = plan_import(form.rules(config), described)
        planned = dict(in_turn(plan.steps, described.__getitem__, None))
    except UnaccountedTensorsError as error:
        raise ValueError(f"{located.weights} ({form.name}): {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{located.weights} has shapes that don't suit each other: {reason}") from error
    with torch.device("meta"):
        expected = form.model(config).state_dict()
    if missing := sorted(set(expected) - set(planned)):
        raise ValueError(f"{located.weights} lacks {len(missing)} tensors of its architecture: {listed(missing)}")
    if others := [
        f"{name} {list(planned[name].shape)} in place of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if planned[name].shape != tensor.shape
    ]:
        raise ValueError(f"{located.weights} has {len(others)} tensors of other shapes: {listed(others, shown=4)}")
    return plan, planned


def convert(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    layout: str | None = None,
    preset: str | None = None,
    dtype: torch.dtype | None = None,
    head: str | os.PathLike | None = None,
    config_overrides: dict[str, Any] | None = None,
    weights: str | None = None,
) -> PreTrainedModel:
    """Converts reference weights to a folder that loads through AutoModel, with processors and labels.

    Args:
        source: File, folder or Hub name.
        output_dir: Folder to write.
        layout: Layout of the source; default recognised.
        preset: Name of a preset architecture; default recognised from shapes.
        dtype: Dtype of the written floating-point weights; default each tensor's own.
        head: File of a linear classifier, which DINO and DINOv2 publish separately from the backbone.
        config_overrides: Config fields that override those read from the weights; fields of a nested config as a
            dictionary, or as in `{"vision_config.num_attention_heads": 8}`.
        weights: Which weights of a training checkpoint to take, as in `open_reference`.

    Returns:
        The model, reloaded from the folder.

    Raises:
        ValueError: As in `open_reference`; nothing is written.
    """
    reference = open_reference(source, layout, preset, head, config_overrides, weights)
    log_notes(reference)
    write_model(reference, Path(output_dir), dtype)
    return reference.form.model.from_pretrained(output_dir)


def log_notes(reference: Reference) -> None:
    """Logs which of a checkpoint's weights were taken and what was left aside."""
    for note in reference.notes:
        logger.warning("%s: %s", reference.located.weights, note)


def write_model(
    reference: Reference,
    output_dir: Path,
    dtype: torch.dtype | None = None,
    show_progress: bool = False,
    check: Callable[[PreTrainedModel], None] | None = None,
) -> None:
    """Writes weights, config, model code, processors and labels, all or nothing.

    Args:
        reference: Recognised reference weights.
        output_dir: Folder to write.
        dtype: Dtype of the written floating-point weights; default each tensor's own.
        show_progress: Whether to show a progress bar.
        check: Called with the model reloaded from the written files; if it raises, nothing is kept.
    """
    planned = {name: cast(tensor, dtype) for name, tensor in reference.planned.items()}
    with torch.device("meta"):
        model = reference.form.model(reference.config).to(common_dtype(planned.values()))
    record = {
        "layout": reference.layout.name,
        "form": reference.form.name,
        "root": reference.evidence.root,
        "constants": list(reference.plan.dropped),
    }
    with staged_folder(output_dir) as staging:
        # Saves config and model code as for any model; `write_safetensors` overwrites the empty weights.
        model.save_pretrained(staging, state_dict={})
        tensors = progress_of(reference.tensors(dtype), planned, show_progress)
        metadata = {"format": "pt", RECORD: json.dumps(record)}
        write_safetensors(staging / "model.safetensors", planned, tensors, metadata)
        fields = reference.layout.image_processor(reference.config, reference.evidence)
        write_processors(staging, reference.config, fields, reference.located.folder)
        if check is not None:
            check(reference.form.model.from_pretrained(staging))


def common_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype that all floating-point tensors share, or float32 if they differ."""
    dtypes = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    return dtypes.pop() if len(dtypes) == 1 else torch.float32


def load(name: str | os.PathLike, **options: Any) -> PreTrainedModel:
    """Loads a model of the suite, or reference weights, which it converts in memory.

    Args:
        name: File, folder or Hub name.
        **options: Options of `from_pretrained` for models of the suite, of `open_reference` for others.

    Returns:
        The model, in evaluation mode, of the class that was saved.

    Raises:
        ValueError: If nothing is found, or the suite does not know the model.
    """
    located = locate(name, options.get("layout"))
    if str(located.settings.get("model_type", "")).startswith("suite_"):
        (architecture,) = located.settings["architectures"]
        return getattr(hf_vit_suite, architecture).from_pretrained(located.folder, **options)
    reference = open_located(located, **options)
    log_notes(reference)
    reference.config.dtype = common_dtype(reference.planned.values())
    state = dict(reference.tensors(reference.config.dtype))
    return reference.form.model.from_pretrained(None, config=reference.config, state_dict=state)
