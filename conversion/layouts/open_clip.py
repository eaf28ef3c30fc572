"""open_clip's CLIP as .pth or safetensors, with GELU or QuickGELU, softmax or sigmoid loss.

Source: https://github.com/mlfoundations/open_clip, `src/open_clip/model.py` and `transformer.py`. Tensor names are
those of OpenAI's code. Its models with a text tower of its own class (`custom_text`) have them under `text.`.
"""

from collections.abc import Callable
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hf_vit_suite.models.configuration_clip import SuiteCLIPConfig
from hf_vit_suite.models.modeling_clip import SuiteCLIPModel

from ..layout import (
    BICUBIC,
    BILINEAR,
    HEAD_WIDTH,
    Evidence,
    Form,
    Layout,
    cropped,
    number_of_heads,
    square_side,
    squeezed,
)
from ..rules import Change, Rule, permuted, rename, reshaped, within

# Prefixes of the towers' config fields.
VISION, TEXT = "vision_config.", "text_config."
CUSTOM = "text."  # prefix of the text tower's tensors in a CustomTextCLIP
# Default of open_clip's configs: heads of the text tower. Both towers' heads have 64 channels by default.
TEXT_HEADS = 8
# Number of heads of the image tower and of the text tower; `None` if unknown.
ToldHeads = tuple[int | None, int | None]

LEADING_ONE = Change(lambda tensor: tensor.unsqueeze(0), lambda tensor: tensor.squeeze(0))

BLOCK = {
    "ln_1.{parameter}": "norm1.{parameter}",
    "attn.in_proj_{parameter}": "attention.qkv.{parameter}",
    "attn.out_proj.{parameter}": "attention.proj.{parameter}",
    "ln_2.{parameter}": "norm2.{parameter}",
    "mlp.c_fc.{parameter}": "mlp.fc1.{parameter}",
    "mlp.c_proj.{parameter}": "mlp.fc2.{parameter}",
}


def blocks() -> list[Rule]:
    """Rules of the blocks, which both towers share."""
    renamed = [rename(theirs, ours) for theirs, ours in BLOCK.items()]
    return within(renamed, "transformer.resblocks.{layer}.", "encoder.blocks.{layer}.")


def rules(config: SuiteCLIPConfig, prefix: str = "") -> list[Rule]:
    """Rules of both towers. open_clip stores projections as `[inputs, outputs]`, ours as linear weights.

    Args:
        config: Our configuration.
        prefix: Prefix of the text tower's tensors.
    """
    vision = [
        rename("conv1.{parameter}", "embeddings.patch_embeddings.projection.{parameter}"),
        rename("class_embedding", "embeddings.cls_token", reshaped((-1,), (1, 1, -1))),
        rename("positional_embedding", "embeddings.position_embeddings", LEADING_ONE),
        rename("ln_pre.{parameter}", "pre_norm.{parameter}"),
        *blocks(),
        rename("ln_post.{parameter}", "norm.{parameter}"),
    ]
    text = [
        rename("token_embedding.weight", "embeddings.token_embeddings.weight"),
        rename("positional_embedding", "embeddings.position_embeddings", LEADING_ONE),
        *blocks(),
        rename("ln_final.{parameter}", "norm.{parameter}"),
    ]
    return [
        *within(vision, "visual.", "vision_model."),
        rename("visual.proj", "visual_projection.weight", permuted(1, 0)),
        *within(text, prefix, "text_model."),
        rename(f"{prefix}text_projection", "text_projection.weight", permuted(1, 0)),
        rename("logit_scale", "logit_scale"),
        rename("logit_bias", "logit_bias"),
    ]


def config(evidence: Evidence, told_heads: Callable[[Evidence, int, int], ToldHeads] | None = None) -> SuiteCLIPConfig:
    """Configuration of both towers. Weights don't determine the activation; open_clip's config or the name does.

    Args:
        evidence: Evidence of the source.
        told_heads: Function of the evidence and both widths, image tower first, that returns the number of heads of
            both towers; default `heads_told_by_config`.
    """
    shapes = evidence.shapes
    hidden, channels, patch, _ = evidence.shape_of("visual.conv1.weight", rank=4)
    text_hidden = shapes["ln_final.weight"][0]
    if not evidence.has("visual.proj", "text_projection"):
        raise ValueError("this CLIP has no plain projections")
    told = evidence.settings.get("model_cfg", {})
    is_quick = told.get("quick_gelu", "quickgelu" in evidence.name.lower())
    activation = {"hidden_act": "quick_gelu" if is_quick else "gelu"}
    vision_heads, text_heads = (told_heads or heads_told_by_config)(evidence, hidden, text_hidden)
    return SuiteCLIPConfig(
        vision_config={
            "hidden_size": hidden,
            "num_hidden_layers": evidence.count("visual.transformer.resblocks."),
            "num_attention_heads": number_of_heads(hidden, evidence, VISION, vision_heads),
            "intermediate_size": shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
            "patch_size": patch,
            "num_channels": channels,
            "image_size": patch * square_side(shapes["visual.positional_embedding"][0] - 1, evidence, VISION),
            **activation,
        },
        text_config={
            "hidden_size": text_hidden,
            "num_hidden_layers": evidence.count("transformer.resblocks."),
            "num_attention_heads": number_of_heads(text_hidden, evidence, TEXT, text_heads),
            "intermediate_size": shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
            "vocab_size": shapes["token_embedding.weight"][0],
            "max_position_embeddings": shapes["positional_embedding"][0],
            **special_tokens(shapes["token_embedding.weight"][0]),
            **activation,
        },
        projection_dim=shapes["visual.proj"][1],
        loss_type="sigmoid" if evidence.has("logit_bias") else "softmax",
    )


def heads_told_by_config(evidence: Evidence, vision_width: int, text_width: int) -> ToldHeads:
    """Heads of both towers from open_clip's config, else 64 channels per text head and unknown image heads."""
    if told := evidence.settings.get("model_cfg"):
        head_width = told.get("vision_cfg", {}).get("head_width", HEAD_WIDTH)
        return vision_width // head_width, told.get("text_cfg", {}).get("heads", TEXT_HEADS)
    return None, None if text_width % HEAD_WIDTH else text_width // HEAD_WIDTH


def special_tokens(vocabulary: int) -> dict[str, int]:
    """BOS and EOS are the last two tokens. Padding follows EOS, so causal attention never attends to it."""
    return {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1}


def is_clip(evidence: Evidence) -> bool:
    """Whether the names are those of OpenAI's CLIP with a vision transformer."""
    return evidence.has("visual.conv1.weight", "visual.class_embedding", "token_embedding.weight", "logit_scale")


def without_custom_prefix(evidence: Evidence) -> Evidence:
    """The evidence with the text tower's tensors under OpenAI's names."""
    return evidence._replace(shapes={name.removeprefix(CUSTOM): shape for name, shape in evidence.shapes.items()})


def holds(config: SuiteCLIPConfig) -> bool:
    """Whether open_clip can have these towers. The file does not store the activation; its name must state it."""
    towers = config.vision_config, config.text_config
    activations = {tower.hidden_act for tower in towers}
    return (
        has_plain_towers(config)
        and activations in ({"gelu"}, {"quick_gelu"})
        and all(tower.layer_norm_eps == 1e-5 for tower in towers)
    )


def has_plain_towers(config: SuiteCLIPConfig) -> bool:
    """Whether the image tower is CLIP's vision transformer, without additions."""
    vision = config.vision_config
    return (
        vision.use_pre_norm
        and not vision.use_patch_bias
        and vision.mlp_type == "gelu"
        and vision.layer_scale_init_value is None
        and vision.num_prefix_tokens == 1
        and vision.pooling == "cls"
    )


def image_processor(config: SuiteCLIPConfig, evidence: Evidence) -> dict[str, Any]:
    """CLIP's preprocessing, or that of open_clip's config if there is one."""
    told = evidence.settings.get("preprocess_cfg", {})
    mean, std = list(told.get("mean", OPENAI_CLIP_MEAN)), list(told.get("std", OPENAI_CLIP_STD))
    resample = BILINEAR if told.get("interpolation") == "bilinear" else BICUBIC
    if told.get("resize_mode") == "squash":
        return squeezed(config.vision_config, mean, std, resample)
    return cropped(config.vision_config, 1.0, mean, std, resample)


LAYOUT = Layout(
    name="open-clip",
    forms=(
        Form(
            name="both towers",
            model=SuiteCLIPModel,
            recognises=is_clip,
            config=config,
            rules=rules,
            holds=holds,
            suffix=".safetensors",
        ),
        Form(
            name="both towers, custom text tower",
            model=SuiteCLIPModel,
            recognises=lambda evidence: (
                evidence.has(f"{CUSTOM}token_embedding.weight") and is_clip(without_custom_prefix(evidence))
            ),
            config=lambda evidence: config(without_custom_prefix(evidence)),
            rules=lambda config: rules(config, CUSTOM),
            holds=holds,
            suffix=".safetensors",
        ),
    ),
    image_processor=image_processor,
    package="open_clip",
)
