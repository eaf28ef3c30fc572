"""transformers' folders of the model types vit, deit, vit_mae, dinov2, dinov2_with_registers and clip.

Files on the Hub use version 4's tensor names, which version 5 writes too by default. The layout `transformers-v5` has
the names of version 5's modules. The rules of either layout map both.

Source: https://github.com/huggingface/transformers, `src/transformers/models/` and `conversion_mapping.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from hf_vit_suite.models.configuration_clip import SuiteCLIPConfig
from hf_vit_suite.models.configuration_mae import SuiteMAEConfig
from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_clip import SuiteCLIPModel
from hf_vit_suite.models.modeling_mae import SuiteMAEForPreTraining, SuiteMAEModel
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification, SuiteViTModel

from ..layout import BILINEAR, HALF, Evidence, Form, Layout, cropped, joined_heads, squeezed
from ..rules import Rule, constant, fuse, rename, reshaped, within
from .open_clip import LEADING_ONE, has_plain_towers

BLOCK_FIELDS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "layer_norm_eps"]
IMAGE_FIELDS = ["image_size", "patch_size", "num_channels"]
SHARED_FIELDS = [
    *BLOCK_FIELDS,
    *IMAGE_FIELDS,
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "qkv_bias",
]
DECODER_FIELDS = [
    "decoder_hidden_size",
    "decoder_num_hidden_layers",
    "decoder_num_attention_heads",
    "decoder_intermediate_size",
    "mask_ratio",
    "norm_pix_loss",
]
CLIP_TOWER_FIELDS = [*BLOCK_FIELDS, "intermediate_size", "projection_dim"]
CLIP_TEXT_FIELDS = ["vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"]
# CLIP's first configurations set `eos_token_id` to 2; the model then finds EOS as the largest token id of a text.
LEGACY_END_OF_TEXT = 2

# Names of the heads that a folder may have besides an encoder.
HEADS = ("classifier", "cls_classifier", "decoder.decoder_embed")

ATTENTION_V4 = [
    joined_heads(tuple(f"attention.attention.{name}" for name in ("query", "key", "value")), "attention.qkv"),
    rename("attention.output.dense.{parameter}", "attention.proj.{parameter}"),
]
ATTENTION_V5 = [
    joined_heads(tuple(f"attention.{name}_proj" for name in "qkv"), "attention.qkv"),
    rename("attention.o_proj.{parameter}", "attention.proj.{parameter}"),
]
MLP_V4 = [
    rename("intermediate.dense.{parameter}", "mlp.fc1.{parameter}"),
    rename("output.dense.{parameter}", "mlp.fc2.{parameter}"),
]
MLP_V5 = [rename(f"mlp.{name}.{{parameter}}", f"mlp.{name}.{{parameter}}") for name in ("fc1", "fc2")]
SWIGLU_V4 = [
    rename("mlp.weights_in.{parameter}", "mlp.gate_up.{parameter}"),
    rename("mlp.weights_out.{parameter}", "mlp.down.{parameter}"),
]
SWIGLU_V5 = [
    fuse(["mlp.gate_proj.{parameter}", "mlp.up_proj.{parameter}"], "mlp.gate_up.{parameter}"),
    rename("mlp.down_proj.{parameter}", "mlp.down.{parameter}"),
]
VIT_NORMS = [
    rename("layernorm_before.{parameter}", "norm1.{parameter}"),
    rename("layernorm_after.{parameter}", "norm2.{parameter}"),
]
DINOV2_NORMS = [
    *[rename(f"{name}.{{parameter}}", f"{name}.{{parameter}}") for name in ("norm1", "norm2")],
    *[rename(f"layer_scale{number}.lambda1", f"scale{number}.gamma") for number in (1, 2)],
]
VIT_V4 = [*VIT_NORMS, *ATTENTION_V4, *MLP_V4]
VIT_V5 = [*VIT_NORMS, *ATTENTION_V5, *MLP_V5]
OURS = "encoder.blocks.{layer}."


def ordered(version: int, v4: list[Rule], v5: list[Rule]) -> list[Rule]:
    """Rules for the names of both versions. Import accepts both; export writes those of `version`."""
    return [*v4, *v5] if version == 4 else [*v5, *v4]


def tokens() -> list[Rule]:
    """Class, distillation and register tokens, position and patch embeddings."""
    return within(
        [
            rename("cls_token", "cls_token"),
            rename("distillation_token", "distillation_token"),
            rename("register_tokens", "register_tokens"),
            rename("position_embeddings", "position_embeddings"),
            rename("patch_embeddings.projection.{parameter}", "patch_embeddings.projection.{parameter}"),
        ],
        "embeddings.",
        "embeddings.",
    )


def vit_encoder(version: int) -> list[Rule]:
    """Encoder of ViT, DeiT and MAE."""
    return [
        *tokens(),
        rename("embeddings.mask_token", "embeddings.mask_token", reshaped((1, 1, -1), (1, -1))),
        *ordered(version, within(VIT_V4, "encoder.layer.{layer}.", OURS), within(VIT_V5, "layers.{layer}.", OURS)),
        rename("layernorm.{parameter}", "norm.{parameter}"),
        rename("pooler.dense.{parameter}", "pre_logits.0.{parameter}"),
    ]


def dinov2_encoder(version: int) -> list[Rule]:
    """Encoder of DINOv2, with and without registers."""
    blocks = [
        *DINOV2_NORMS,
        *ordered(version, ATTENTION_V4, ATTENTION_V5),
        *MLP_V5,
        *ordered(version, SWIGLU_V4, SWIGLU_V5),
    ]
    return [
        *tokens(),
        rename("embeddings.mask_token", "embeddings.mask_token"),
        *within(blocks, "encoder.layer.{layer}.", OURS),
        rename("layernorm.{parameter}", "norm.{parameter}"),
    ]


def autoencoder(version: int) -> list[Rule]:
    """MAE with its decoder; transformers 5 writes the decoder of version 4 under other names, `decoder_encoder`."""
    theirs, ours = "decoder_layers.{layer}.", "trunk.blocks.{layer}."
    decoder = [
        rename("mask_token", "mask_token"),
        rename("decoder_pos_embed", "position_embeddings"),
        rename("decoder_embed.{parameter}", "embed.{parameter}"),
        *ordered(version, within(VIT_V4, theirs, ours), within(VIT_V5, theirs, ours)),
        *within(VIT_V4, "decoder_encoder.layer.{layer}.", ours),
        rename("decoder_norm.{parameter}", "norm.{parameter}"),
        rename("decoder_pred.{parameter}", "predict.{parameter}"),
    ]
    return [*within(vit_encoder(version), "vit.", "vit."), *within(decoder, "decoder.", "decoder.")]


def clip(config: SuiteCLIPConfig) -> list[Rule]:
    """Both towers; versions 4 and 5 share their names."""
    block = [
        rename("layer_norm1.{parameter}", "norm1.{parameter}"),
        joined_heads(tuple(f"self_attn.{name}_proj" for name in "qkv"), "attention.qkv"),
        rename("self_attn.out_proj.{parameter}", "attention.proj.{parameter}"),
        rename("layer_norm2.{parameter}", "norm2.{parameter}"),
        *MLP_V5,
    ]
    blocks = within(block, "encoder.layers.{layer}.", OURS)
    vision = [
        rename("embeddings.class_embedding", "embeddings.cls_token", reshaped((-1,), (1, 1, -1))),
        rename("embeddings.patch_embedding.{parameter}", "embeddings.patch_embeddings.projection.{parameter}"),
        rename("embeddings.position_embedding.weight", "embeddings.position_embeddings", LEADING_ONE),
        position_numbers(config.vision_config.grid_height_width[0] * config.vision_config.grid_height_width[1] + 1),
        rename("pre_layrnorm.{parameter}", "pre_norm.{parameter}"),
        *blocks,
        rename("post_layernorm.{parameter}", "norm.{parameter}"),
    ]
    text = [
        rename("embeddings.token_embedding.weight", "embeddings.token_embeddings.weight"),
        rename("embeddings.position_embedding.weight", "embeddings.position_embeddings", LEADING_ONE),
        position_numbers(config.text_config.max_position_embeddings),
        *blocks,
        rename("final_layer_norm.{parameter}", "norm.{parameter}"),
    ]
    return [
        *within(vision, "vision_model.", "vision_model."),
        *within(text, "text_model.", "text_model."),
        *[rename(name, name) for name in ("visual_projection.weight", "text_projection.weight", "logit_scale")],
    ]


def position_numbers(count: int) -> Rule:
    """Position ids 0, 1, 2, ..., which transformers wrote to files before 4.31."""
    value = torch.arange(count).unsqueeze(0)
    return constant("embeddings.position_ids", value, "the numbers of the positions", is_optional=True)


def with_heads(encoder: list[Rule], prefix: str, heads: dict[str, str]) -> list[Rule]:
    """Prefixes an encoder with its family's name and adds heads."""
    named = [rename(f"{theirs}.{{parameter}}", f"{ours}.{{parameter}}") for theirs, ours in heads.items()]
    return [*within(encoder, f"{prefix}.", "vit."), *named]


def their_config(evidence: Evidence) -> PretrainedConfig:
    """transformers' configuration, which adds the defaults that `config.json` omits."""
    settings = {name: value for name, value in evidence.settings.items() if name != "model_type"}
    return AutoConfig.for_model(evidence.settings["model_type"], **settings)


def shared_fields(theirs: PretrainedConfig) -> dict[str, Any]:
    """Fields that have the same name in transformers' configuration and ours."""
    return {name: getattr(theirs, name) for name in SHARED_FIELDS}


def recorded_label_fields(theirs: PretrainedConfig, evidence: Evidence, head: str) -> dict[str, Any]:
    """Label names from the configuration; no labels without a head."""
    if not evidence.has(f"{head}.weight"):
        return {"num_labels": 0}
    return {"id2label": theirs.id2label, "label2id": theirs.label2id}


def vit_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of ViT and DeiT."""
    theirs = their_config(evidence)
    pooler = next((shape for name, shape in evidence.shapes.items() if name.endswith("pooler.dense.weight")), None)
    if pooler is not None and theirs.pooler_act != "tanh":
        raise ValueError(f"its pooler has the activation {theirs.pooler_act}, ours has tanh")
    return SuiteViTConfig(
        **shared_fields(theirs),
        intermediate_size=theirs.intermediate_size,
        use_distillation_token=theirs.model_type == "deit",
        use_mask_token=any(name.endswith("embeddings.mask_token") for name in evidence.shapes),
        representation_size=pooler[0] if pooler is not None else None,
        **recorded_label_fields(theirs, evidence, "cls_classifier" if theirs.model_type == "deit" else "classifier"),
    )


def dinov2_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of DINOv2, whose classifier reads the class token and the mean of the patch tokens."""
    theirs = their_config(evidence)
    has_registers = theirs.model_type == "dinov2_with_registers"
    width = int(theirs.hidden_size * theirs.mlp_ratio)
    if theirs.use_swiglu_ffn:
        width = (int(width * 2 / 3) + 7) // 8 * 8
    return SuiteViTConfig(
        **shared_fields(theirs),
        intermediate_size=width,
        mlp_type="swiglu" if theirs.use_swiglu_ffn else "gelu",
        layer_scale_init_value=theirs.layerscale_value,
        drop_path_rate=theirs.drop_path_rate,
        use_mask_token=any(name.endswith("embeddings.mask_token") for name in evidence.shapes),
        num_register_tokens=theirs.num_register_tokens if has_registers else 0,
        position_interpolation_antialias=has_registers,
        classifier_patch_mean=evidence.has("classifier.weight"),
        **recorded_label_fields(theirs, evidence, "classifier"),
    )


def mae_config(evidence: Evidence) -> SuiteMAEConfig:
    """Configuration of MAE."""
    theirs = their_config(evidence)
    decoder = {name: getattr(theirs, name) for name in DECODER_FIELDS}
    return SuiteMAEConfig(**shared_fields(theirs), intermediate_size=theirs.intermediate_size, **decoder, num_labels=0)


def clip_config(evidence: Evidence) -> SuiteCLIPConfig:
    """Configuration of CLIP."""
    theirs = their_config(evidence)
    vision = {name: getattr(theirs.vision_config, name) for name in (*CLIP_TOWER_FIELDS, *IMAGE_FIELDS)}
    text = {name: getattr(theirs.text_config, name) for name in (*CLIP_TOWER_FIELDS, *CLIP_TEXT_FIELDS)}
    if text["eos_token_id"] == LEGACY_END_OF_TEXT:
        last = text["vocab_size"] - 1
        text |= {"bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    return SuiteCLIPConfig(vision_config=vision, text_config=text, projection_dim=theirs.projection_dim)


def their_settings(model_type: str, architecture: str, ours: PretrainedConfig, **fields: Any) -> dict[str, Any]:
    """transformers' `config.json` for one of our configurations."""
    shared = {name: getattr(ours, name) for name in SHARED_FIELDS if hasattr(ours, name)}
    theirs = AutoConfig.for_model(model_type, **{**shared, **fields})
    if ours.num_labels:
        theirs.id2label, theirs.label2id = ours.id2label, ours.label2id
    theirs.architectures = [architecture]
    return theirs.to_dict()


def vit_settings(config: SuiteViTConfig, model_type: str, architecture: str) -> dict[str, Any]:
    """`config.json` of ViT and DeiT."""
    fields = {"intermediate_size": config.intermediate_size}
    if config.representation_size:
        fields["pooler_output_size"] = config.representation_size
    return their_settings(model_type, architecture, config, **fields)


def dinov2_settings(config: SuiteViTConfig, architecture: str) -> dict[str, Any]:
    """`config.json` of DINOv2; a SwiGLU's width follows from the ratio 4."""
    is_gated = config.mlp_type == "swiglu"
    fields = {
        "mlp_ratio": 4 if is_gated else config.intermediate_size // config.hidden_size,
        "use_swiglu_ffn": is_gated,
        "layerscale_value": config.layer_scale_init_value,
        "drop_path_rate": config.drop_path_rate,
    }
    if config.num_register_tokens:
        registers = {"num_register_tokens": config.num_register_tokens}
        architecture = architecture.replace("Dinov2", "Dinov2WithRegisters")
        return their_settings("dinov2_with_registers", architecture, config, **fields, **registers)
    return their_settings("dinov2", architecture, config, **fields, use_mask_token=config.has_mask_token)


def mae_settings(config: SuiteMAEConfig, architecture: str) -> dict[str, Any]:
    """`config.json` of MAE."""
    decoder = {name: getattr(config, name) for name in DECODER_FIELDS}
    return their_settings("vit_mae", architecture, config, intermediate_size=config.intermediate_size, **decoder)


def clip_settings(config: SuiteCLIPConfig) -> dict[str, Any]:
    """`config.json` of CLIP."""
    vision = {name: getattr(config.vision_config, name) for name in (*CLIP_TOWER_FIELDS, *IMAGE_FIELDS)}
    text = {name: getattr(config.text_config, name) for name in (*CLIP_TOWER_FIELDS, *CLIP_TEXT_FIELDS)}
    theirs = AutoConfig.for_model("clip", vision_config=vision, text_config=text, projection_dim=config.projection_dim)
    theirs.architectures = ["CLIPModel"]
    return theirs.to_dict()


def is_plain(config: SuiteViTConfig) -> bool:
    """Whether transformers' ViT or DeiT has this architecture."""
    return (
        config.pooling == "cls"
        and config.mlp_type == "gelu"
        and config.layer_scale_init_value is None
        and config.classifier_layers == 1
        and config.use_patch_bias
        and not (config.num_register_tokens or config.use_pre_norm or config.classifier_patch_mean)
    )


def is_dinov2(config: SuiteViTConfig) -> bool:
    """Whether transformers' DINOv2 has this architecture."""
    ratio, rest = divmod(config.intermediate_size, config.hidden_size)
    return (
        config.pooling == "cls"
        and config.layer_scale_init_value is not None
        and config.classifier_layers == 1
        and config.use_patch_bias
        and (config.mlp_type == "swiglu" or (ratio > 0 and rest == 0))
        and not (config.use_distillation_token or config.use_pre_norm or config.representation_size)
    )


def of_type(*model_types: str, head: str | None = None) -> Callable[[Evidence], bool]:
    """Returns a function that recognises folders of these model types, with `head` or without any head."""

    def recognises(evidence: Evidence) -> bool:
        has_head = any(evidence.has(f"{name}.weight") for name in HEADS)
        return evidence.settings.get("model_type") in model_types and (
            evidence.has(f"{head}.weight") if head else not has_head
        )

    return recognises


def vit_form(version: int, model_type: str, heads: dict[str, str], architecture: str) -> Form:
    """Form of ViT or DeiT, with or without heads."""
    encoder = vit_encoder(version)
    is_distilled = model_type == "deit"
    return Form(
        name=f"{model_type} {'classifier' if heads else 'encoder'}",
        model=SuiteViTForImageClassification if heads else SuiteViTModel,
        recognises=of_type(model_type, head=next(reversed(heads), None)),
        config=vit_config,
        rules=lambda config: with_heads(encoder, model_type, heads) if heads else encoder,
        holds=lambda config: (
            is_plain(config)
            and config.use_distillation_token == is_distilled
            and (config.representation_size is None or not heads)  # transformers' classifiers have no pooler
        ),
        settings=lambda config: vit_settings(config, model_type, architecture),
        suffix=".safetensors",
    )


def dinov2_form(version: int, has_head: bool, architecture: str) -> Form:
    """Form of DINOv2, with or without a classifier; both hold models with and without registers."""
    encoder = dinov2_encoder(version)

    def rules(config: SuiteViTConfig) -> list[Rule]:
        prefix = "dinov2_with_registers" if config.num_register_tokens else "dinov2"
        return with_heads(encoder, prefix, {"classifier": "classifier"}) if has_head else encoder

    return Form(
        name=f"dinov2 {'classifier' if has_head else 'encoder'}",
        model=SuiteViTForImageClassification if has_head else SuiteViTModel,
        recognises=of_type("dinov2", "dinov2_with_registers", head="classifier" if has_head else None),
        config=dinov2_config,
        rules=rules,
        holds=lambda config: is_dinov2(config) and (config.classifier_patch_mean or not has_head),
        settings=lambda config: dinov2_settings(config, architecture),
        suffix=".safetensors",
    )


def mae_form(version: int, has_decoder: bool, architecture: str) -> Form:
    """Form of MAE, with or without its decoder."""
    return Form(
        name=f"vit_mae {'with decoder' if has_decoder else 'encoder'}",
        model=SuiteMAEForPreTraining if has_decoder else SuiteMAEModel,
        recognises=of_type("vit_mae", head="decoder.decoder_embed" if has_decoder else None),
        config=mae_config,
        rules=lambda config: autoencoder(version) if has_decoder else vit_encoder(version),
        settings=lambda config: mae_settings(config, architecture),
        suffix=".safetensors",
    )


def forms(version: int) -> tuple[Form, ...]:
    """Forms of all model types under a version's names."""
    deit_heads = {"cls_classifier": "classifier", "distillation_classifier": "distillation_classifier"}
    return (
        vit_form(version, "vit", {"classifier": "classifier"}, "ViTForImageClassification"),
        vit_form(version, "vit", {}, "ViTModel"),
        vit_form(version, "deit", deit_heads, "DeiTForImageClassificationWithTeacher"),
        vit_form(version, "deit", {}, "DeiTModel"),
        dinov2_form(version, True, "Dinov2ForImageClassification"),
        dinov2_form(version, False, "Dinov2Model"),
        mae_form(version, True, "ViTMAEForPreTraining"),
        mae_form(version, False, "ViTMAEModel"),
        Form(
            name="clip",
            model=SuiteCLIPModel,
            recognises=of_type("clip"),
            config=clip_config,
            rules=clip,
            holds=lambda config: config.loss_type == "softmax" and has_plain_towers(config),
            settings=clip_settings,
            suffix=".safetensors",
        ),
    )


def image_processor(config: PretrainedConfig, evidence: Evidence) -> dict[str, Any]:
    """The model type's published preprocessing, for folders without a preprocessor file."""
    model_type = evidence.settings["model_type"]
    if model_type == "clip":
        return cropped(config.vision_config, 1.0, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    if model_type == "vit":
        return squeezed(config, HALF, HALF, BILINEAR)
    return cropped(config, image_size=224 if model_type.startswith("dinov2") else None)


def has_names_of(version: int, evidence: Evidence) -> bool:
    """Whether the blocks have a version's names; CLIP's are the same in both and count as version 4's."""
    is_v5 = any(".attention.q_proj." in name for name in evidence.shapes)
    return is_v5 == (version == 5)


def layout(name: str, version: int) -> Layout:
    """Builds the layout for a version's names."""
    of_version = [
        replace(
            form,
            recognises=lambda evidence, form=form: form.recognises(evidence) and has_names_of(version, evidence),
        )
        for form in forms(version)
    ]
    return Layout(name=name, forms=tuple(of_version), image_processor=image_processor, package="transformers")


LAYOUT = layout("transformers", version=4)
