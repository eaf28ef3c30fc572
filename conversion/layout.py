"""What a layout is: how its files look, which of our models they hold, and by which rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PretrainedConfig
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    PILImageResampling,
)

from hf_vit_suite.models.pretrained import SuitePreTrainedModel

from .rules import Rule, fuse, rename, within

# Heads of published widths that are no 64 channels each, then those that are; shapes don't tell.
HEADS = {1280: 16, 1408: 16, 1664: 16}
HEADS |= {width: width // 64 for width in (192, 256, 320, 384, 512, 640, 768, 896, 1024, 1536)}


class Evidence(NamedTuple):
    """What is known of a source before any number of it is read.

    Args:
        shapes: Shapes of its tensors by name.
        root: What stands in front of every name in the file, e.g. `"model."`.
        kind: `"safetensors"`, `"torch"` or `"numpy"`.
        settings: The `config.json` beside it, empty where there is none.
        name: Name of the file or the Hub's repository, which may identify what shapes don't.
        overrides: Config fields that the user overrides, those of a nested config nested.
    """

    shapes: Mapping[str, tuple[int, ...]]
    root: str = ""
    kind: str = "torch"
    settings: Mapping[str, Any] = {}
    name: str = ""
    overrides: Mapping[str, Any] = {}

    def has(self, *names: str) -> bool:
        """Whether all of these tensors are there."""
        return all(name in self.shapes for name in names)

    def shape_of(self, name: str, rank: int) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            ValueError: If it has another number of dimensions.
        """
        shape = self.shapes[name]
        if len(shape) != rank:
            raise ValueError(f"{name} must have {rank} dimensions, got {list(shape)}")
        return shape

    def override(self, field: str) -> Any:
        """The user's override of a field, such as `"vision_config.image_size"`; `None` without one."""
        value: Any = self.overrides
        for name in field.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def count(self, prefix: str) -> int:
        """How many numbered parts there are behind a prefix such as `"blocks."`."""
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in self.shapes if name.startswith(prefix)}
        return len(numbers)


@dataclass(frozen=True)
class Form:
    """One kind of file in a layout.

    Args:
        name: What it holds, in words.
        model: Our class for it.
        recognises: Whether a source is of this form.
        config: Our configuration for a source of this form.
        rules: The table of a model of a configuration.
        holds: Whether a model of `model`'s class with this configuration has its place in the form.
        root: What stands in front of every name in its files.
        is_nested: Whether the first part of each name is an entry of its own.
        suffix: Of its files, which says the format.
        settings: The `config.json` that its folders have, from our configuration; `None` where they have none.
        head_root: Where the classifier has a file of its own, what stands in front of its names there; here it is
            `HEAD`.
    """

    name: str
    model: type[SuitePreTrainedModel]
    recognises: Callable[[Evidence], bool]
    config: Callable[[Evidence], PretrainedConfig]
    rules: Callable[[PretrainedConfig], list[Rule]]
    holds: Callable[[PretrainedConfig], bool] = lambda config: True
    root: str = ""
    is_nested: bool = False
    suffix: str = ".pth"
    settings: Callable[[PretrainedConfig], dict[str, Any]] | None = None
    head_root: str | None = None


# In front of the names of a classifier's tensors that come from a file of its own.
HEAD = "head-file."


@dataclass(frozen=True)
class Layout:
    """A way in which weights are published.

    Args:
        name: What users call it.
        forms: Its kinds of files, the more particular first.
        image_processor: Fields of the image processor for a source: mean, std, size, interpolation, crop.
        package: The package whose model checks a conversion.
    """

    name: str
    forms: tuple[Form, ...]
    image_processor: Callable[[PretrainedConfig, Evidence], dict[str, Any]]
    package: str = "timm"

    def form_of(self, evidence: Evidence) -> Form | None:
        """The form that a source is of."""
        return next((form for form in self.forms if form.recognises(evidence)), None)


def number_of_heads(width: int, evidence: Evidence, part: str = "", told: int | None = None) -> int:
    """Number of heads: the user's, else the source's, else that of published models of this width.

    Args:
        width: Of the tokens.
        evidence: The source.
        part: Leads to the config that has the field, such as `"vision_config."`.
        told: What the source says.

    Raises:
        ValueError: If none of the three is known.
    """
    field = f"{part}num_attention_heads"
    heads = evidence.override(field) or told or HEADS.get(width)
    if heads is None:
        raise ValueError(
            f"no published model is {width} wide, and the number of heads can't be read from weights: "
            f"set it, --config_overrides {field}=N"
        )
    return heads


def square_side(patches: int, evidence: Evidence, part: str = "") -> int:
    """Side of a square grid of so many patches.

    Args:
        patches: How many.
        evidence: The source.
        part: As in `number_of_heads`.

    Raises:
        ValueError: If it is no square, and the user does not say the image's size.
    """
    side, field = round(patches**0.5), f"{part}image_size"
    if side * side != patches and evidence.override(field) is None:
        raise ValueError(
            f"{patches} patches are no square: say the image's height and width in pixels, "
            f"--config_overrides {field}=[HEIGHT,WIDTH]"
        )
    return side


def block_rules(theirs: str = "blocks.{layer}.", ours: str = "encoder.blocks.{layer}.") -> list[Rule]:
    """A block in timm's names, which DeiT, MAE, DINO and DINOv2 share."""
    parts = {
        "norm1": "norm1",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.proj",
        "norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    renamed = [rename(f"{their}.{{parameter}}", f"{our}.{{parameter}}") for their, our in parts.items()]
    return within(renamed, theirs, ours)


def layer_scale_rules(theirs: str = "ls{}.gamma") -> list[Rule]:
    """LayerScale of both branches under a layout's name."""
    return within(
        [rename(theirs.format(number), f"scale{number}.gamma") for number in (1, 2)],
        "blocks.{layer}.",
        "encoder.blocks.{layer}.",
    )


def trunk_rules() -> list[Rule]:
    """Tokens, positions, patches and blocks in timm's names."""
    return [
        rename("cls_token", "embeddings.cls_token"),
        rename("pos_embed", "embeddings.position_embeddings"),
        rename("patch_embed.proj.{parameter}", "embeddings.patch_embeddings.projection.{parameter}"),
        *block_rules(),
    ]


def encoder_fields(evidence: Evidence, positioned_prefix: int = 1) -> dict[str, Any]:
    """Config fields that the shapes of an encoder in timm's names tell.

    Args:
        evidence: The source.
        positioned_prefix: Rows of the position table in front of the patches'.
    """
    shapes = evidence.shapes
    hidden, channels, patch, _ = evidence.shape_of("patch_embed.proj.weight", rank=4)
    side = square_side(evidence.shape_of("pos_embed", rank=3)[1] - positioned_prefix, evidence)
    return {
        "hidden_size": hidden,
        "num_hidden_layers": evidence.count("blocks."),
        "num_attention_heads": number_of_heads(hidden, evidence),
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0] if evidence.has("blocks.0.mlp.fc1.weight") else None,
        "qkv_bias": evidence.has("blocks.0.attn.qkv.bias"),
        "patch_size": patch,
        "num_channels": channels,
        "image_size": side * patch,
    }


def has_published_blocks(config: PretrainedConfig) -> bool:
    """Whether what weights don't tell is as published: exact GELU, epsilon 1e-6, biases, no norm in front."""
    return (
        config.hidden_act == "gelu"
        and config.layer_norm_eps == 1e-6
        and config.qkv_bias
        and config.use_patch_bias
        and not config.use_pre_norm
    )


def label_count(evidence: Evidence, name: str = "head.bias") -> int:
    """Labels of a classifier, 0 without one."""
    return evidence.shapes[name][0] if evidence.has(name) else 0


def joined_heads(queries_keys_values: tuple[str, str, str], ours: str) -> Rule:
    """Queries, keys and values apart there, together here."""
    return fuse([f"{name}.{{parameter}}" for name in queries_keys_values], f"{ours}.{{parameter}}")


HALF = IMAGENET_STANDARD_MEAN  # Google's, for mean and deviation alike
BILINEAR, BICUBIC = PILImageResampling.BILINEAR, PILImageResampling.BICUBIC


def cropped(
    config: PretrainedConfig,
    share: float = 0.875,
    mean: list[float] = IMAGENET_DEFAULT_MEAN,
    std: list[float] = IMAGENET_DEFAULT_STD,
    resample: int = BICUBIC,
    image_size: int | None = None,
) -> dict[str, Any]:
    """An image processor that makes the short side so long that the middle is `share` of it, and cuts that out."""
    height, width = config.image_height_width if image_size is None else (image_size, image_size)
    return {
        "size": {"shortest_edge": int(min(height, width) / share)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "resample": resample,
        "image_mean": mean,
        "image_std": std,
    }


def squeezed(config: PretrainedConfig, mean: list[float], std: list[float], resample: int) -> dict[str, Any]:
    """An image processor that makes any image the model's size, whatever its aspect."""
    height, width = config.image_height_width
    return {"size": {"height": height, "width": width}, "resample": resample, "image_mean": mean, "image_std": std}
