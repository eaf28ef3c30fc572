"""Definition of a layout: its kinds of files, the model that each holds, and the conversion rules."""

import logging
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

# Number of heads by published width, since shapes don't determine it. The first line lists the widths whose heads
# don't have 64 channels, the second those whose heads do.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16, 1792: 16}
HEADS |= {width: width // 64 for width in (192, 256, 320, 384, 512, 640, 768, 896, 1024, 1536)}
HEAD_WIDTH = 64  # assumed for multiples of it that are not published

logger = logging.getLogger(__name__)


class Evidence(NamedTuple):
    """Information about a source that is known before any tensor value is read.

    Args:
        shapes: Tensor shapes by name.
        root: Prefix of every name in the file, e.g. `"model."`.
        kind: File format, `"safetensors"`, `"torch"` or `"numpy"`.
        settings: Content of the configuration file next to the weights; empty if there is none.
        name: Name of the file, folder or Hub repository, which may identify what shapes don't.
        overrides: Config fields that the user overrides, those of a nested config nested.
    """

    shapes: Mapping[str, tuple[int, ...]]
    root: str = ""
    kind: str = "torch"
    settings: Mapping[str, Any] = {}
    name: str = ""
    overrides: Mapping[str, Any] = {}

    def has(self, *names: str) -> bool:
        """Whether the source has all of these tensors."""
        return all(name in self.shapes for name in names)

    def shape_of(self, name: str, rank: int) -> tuple[int, ...]:
        """A tensor's shape.

        Raises:
            ValueError: If the tensor does not have `rank` dimensions.
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
        """Number of distinct numbered parts that follow a prefix such as `"blocks."`."""
        numbers = {name.removeprefix(prefix).partition(".")[0] for name in self.shapes if name.startswith(prefix)}
        return len(numbers)


@dataclass(frozen=True)
class Form:
    """One kind of file in a layout.

    Args:
        name: Description of the content.
        model: Our model class for it.
        recognises: Returns whether a source has this form.
        config: Builds our configuration for a source of this form.
        rules: Builds the rules for a configuration.
        holds: Returns whether the form can hold a model of class `model` with this configuration.
        root: Prefix of every name in its files.
        is_nested: Whether the first part of each name is a dictionary entry that holds the rest.
        suffix: File suffix, which determines the format.
        settings: Builds the `config.json` of its folders from our configuration; `None` if the form has no folders.
        head_root: Prefix of the classifier's names in its separate file; `None` if there is no such file. The rules
            use the prefix `HEAD` instead.
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


# Prefix that the rules use for tensors from a separate classifier file.
HEAD = "head-file."


@dataclass(frozen=True)
class Layout:
    """A published format of weights.

    Args:
        name: Name for users.
        forms: Kinds of files, the most specific first.
        image_processor: Builds the image processor's fields for a source: mean, std, size, interpolation, crop.
        package: Package of the reference model that `--verify` runs.
    """

    name: str
    forms: tuple[Form, ...]
    image_processor: Callable[[PretrainedConfig, Evidence], dict[str, Any]]
    package: str = "timm"

    def form_of(self, evidence: Evidence) -> Form | None:
        """The first form that recognises a source; `None` if none does."""
        return next((form for form in self.forms if form.recognises(evidence)), None)


def number_of_heads(width: int, evidence: Evidence, part: str = "", told: int | None = None) -> int:
    """Number of attention heads: the user's override, else the source's, else that of published models of this width.

    Any other multiple of 64 gets heads of 64 channels, with a warning.

    Args:
        width: Width of the tokens in channels.
        evidence: Evidence of the source.
        part: Prefix of the nested config that has the field, such as `"vision_config."`.
        told: Number that the source states, if any.

    Raises:
        ValueError: If all are unknown.
    """
    field = f"{part}num_attention_heads"
    heads = evidence.override(field) or told or HEADS.get(width)
    if heads is None and width % HEAD_WIDTH == 0:
        heads = width // HEAD_WIDTH
        logger.warning(
            "no published model is %d wide: assumed heads of 64 channels, %s=%d; if the model has other heads, set "
            "--config_overrides %s=N",
            *(width, field, heads, field),
        )
    if heads is None:
        raise ValueError(
            f"no published model is {width} wide, and the number of heads can't be read from weights: "
            f"set it, --config_overrides {field}=N"
        )
    return heads


def square_side(patches: int, evidence: Evidence, part: str = "") -> int:
    """Side of a square grid, in patches.

    Args:
        patches: Number of patches.
        evidence: Evidence of the source.
        part: Prefix of the nested config, as in `number_of_heads`.

    Raises:
        ValueError: If `patches` is not a square number and the user does not override `image_size`.
    """
    side, field = round(patches**0.5), f"{part}image_size"
    if side * side != patches and evidence.override(field) is None:
        raise ValueError(
            f"{patches} patches are no square: say the image's height and width in pixels, "
            f"--config_overrides {field}=[HEIGHT,WIDTH]"
        )
    return side


def block_rules(theirs: str = "blocks.{layer}.", ours: str = "encoder.blocks.{layer}.") -> list[Rule]:
    """A block under timm's names, which DeiT, MAE, DINO and DINOv2 share."""
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
    """LayerScale of both branches; `theirs` is the layout's name with a slot for the branch number."""
    return within(
        [rename(theirs.format(number), f"scale{number}.gamma") for number in (1, 2)],
        "blocks.{layer}.",
        "encoder.blocks.{layer}.",
    )


def trunk_rules() -> list[Rule]:
    """Class token, position and patch embeddings, and blocks under timm's names."""
    return [
        rename("cls_token", "embeddings.cls_token"),
        rename("pos_embed", "embeddings.position_embeddings"),
        rename("patch_embed.proj.{parameter}", "embeddings.patch_embeddings.projection.{parameter}"),
        *block_rules(),
    ]


def encoder_fields(evidence: Evidence, positioned_prefix: int = 1) -> dict[str, Any]:
    """Config fields that follow from the shapes of an encoder under timm's names.

    Args:
        evidence: Evidence of the source.
        positioned_prefix: Number of position embeddings that precede those of the patches.
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


# Parts that encoders got after the first papers; training programs store such encoders as they do plain ones.
LATER_PARTS = ("blocks.0.ls1.gamma", "dist_token", "reg_token", "register_tokens", "norm_pre.weight")


def has_plain_encoder(evidence: Evidence, prefix: str = "") -> bool:
    """Whether a source has an encoder under timm's names, without later parts such as LayerScale or registers."""
    needed = [prefix + name for name in ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight")]
    return evidence.has(*needed) and not any(evidence.has(prefix + name) for name in LATER_PARTS)


def has_published_blocks(config: PretrainedConfig) -> bool:
    """Whether the blocks are as published: exact GELU, epsilon 1e-6, QKV and patch biases, no pre-norm."""
    return (
        config.hidden_act == "gelu"
        and config.layer_norm_eps == 1e-6
        and config.qkv_bias
        and config.use_patch_bias
        and not config.use_pre_norm
    )


def label_count(evidence: Evidence, name: str = "head.bias") -> int:
    """Number of a classifier's labels; 0 without a classifier."""
    return evidence.shapes[name][0] if evidence.has(name) else 0


def joined_heads(queries_keys_values: tuple[str, str, str], ours: str) -> Rule:
    """Fuses their separate query, key and value layers into our one."""
    return fuse([f"{name}.{{parameter}}" for name in queries_keys_values], f"{ours}.{{parameter}}")


HALF = IMAGENET_STANDARD_MEAN  # Google's value, for both mean and standard deviation
BILINEAR, BICUBIC = PILImageResampling.BILINEAR, PILImageResampling.BICUBIC


def cropped(
    config: PretrainedConfig,
    share: float = 0.875,
    mean: list[float] = IMAGENET_DEFAULT_MEAN,
    std: list[float] = IMAGENET_DEFAULT_STD,
    resample: int = BICUBIC,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Fields of an image processor that resizes the short side to the crop's side / `share` and center-crops."""
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
    """Fields of an image processor that resizes to the model's size and ignores the aspect ratio."""
    height, width = config.image_height_width
    return {"size": {"height": height, "width": width}, "resample": resample, "image_mean": mean, "image_std": std}
