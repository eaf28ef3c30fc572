"""MAE's .pth (arXiv 2111.06377): pretrained encoders, encoders with decoder, and fine-tuned classifiers.

Source: https://github.com/facebookresearch/mae, `models_mae.py` and `models_vit.py`.
"""

from hf_vit_suite.models.configuration_mae import SuiteMAEConfig
from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_mae import SuiteMAEForPreTraining, SuiteMAEModel
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification

from ..layout import (
    Evidence,
    Form,
    Layout,
    block_rules,
    cropped,
    encoder_fields,
    has_plain_encoder,
    has_published_blocks,
    label_count,
    trunk_rules,
)
from ..rules import Rule, rename, within

DECODER_HEADS = 16  # heads of every published decoder, which is 512 wide


def encoder(config: SuiteMAEConfig) -> list[Rule]:
    """Rules of the encoder."""
    return [*trunk_rules(), rename("norm.{parameter}", "norm.{parameter}")]


def autoencoder(config: SuiteMAEConfig) -> list[Rule]:
    """Rules of encoder and decoder."""
    return [
        *within(encoder(config), ours="vit."),
        rename("mask_token", "decoder.mask_token"),
        rename("decoder_pos_embed", "decoder.position_embeddings"),
        rename("decoder_embed.{parameter}", "decoder.embed.{parameter}"),
        *block_rules("decoder_blocks.{layer}.", "decoder.trunk.blocks.{layer}."),
        rename("decoder_norm.{parameter}", "decoder.norm.{parameter}"),
        rename("decoder_pred.{parameter}", "decoder.predict.{parameter}"),
    ]


def classifier(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the fine-tuned classifier, which normalises the mean of the patch tokens."""
    return [
        *within([*trunk_rules(), rename("fc_norm.{parameter}", "norm.{parameter}")], ours="vit."),
        rename("head.{parameter}", "classifier.{parameter}"),
    ]


def encoder_config(evidence: Evidence) -> SuiteMAEConfig:
    """Configuration of an encoder without decoder; the decoder's fields have the paper's values."""
    return SuiteMAEConfig(**encoder_fields(evidence), num_labels=0)


def autoencoder_config(evidence: Evidence) -> SuiteMAEConfig:
    """Configuration of encoder and decoder. `norm_pix_loss` keeps its default, since files don't record it."""
    shapes = evidence.shapes
    return SuiteMAEConfig(
        **encoder_fields(evidence),
        decoder_hidden_size=shapes["decoder_embed.weight"][0],
        decoder_num_hidden_layers=evidence.count("decoder_blocks."),
        decoder_num_attention_heads=evidence.overrides.get("decoder_num_attention_heads", DECODER_HEADS),
        decoder_intermediate_size=shapes["decoder_blocks.0.mlp.fc1.weight"][0],
        num_labels=0,
    )


def classifier_config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration of a fine-tuned classifier."""
    return SuiteViTConfig(
        **encoder_fields(evidence),
        pooling="mean",
        num_labels=label_count(evidence),
    )


def is_mae(evidence: Evidence) -> bool:
    """Whether a file stores a plain encoder in the entry `model`, as MAE's do."""
    return evidence.root == "model." and has_plain_encoder(evidence)


LAYOUT = Layout(
    name="mae",
    forms=(
        Form(
            name="encoder with decoder",
            model=SuiteMAEForPreTraining,
            recognises=lambda evidence: is_mae(evidence) and evidence.has("decoder_pred.weight", "mask_token"),
            config=autoencoder_config,
            rules=autoencoder,
            holds=has_published_blocks,
            root="model.",
        ),
        Form(
            name="fine-tuned classifier",
            model=SuiteViTForImageClassification,
            recognises=lambda evidence: is_mae(evidence) and evidence.has("fc_norm.weight", "head.weight"),
            config=classifier_config,
            rules=classifier,
            holds=lambda config: (
                has_published_blocks(config)
                and config.pooling == "mean"
                and config.mlp_type == "gelu"
                and config.representation_size is None
            ),
            root="model.",
        ),
        Form(
            name="encoder",
            model=SuiteMAEModel,
            recognises=lambda evidence: (
                is_mae(evidence) and evidence.has("norm.weight") and not evidence.has("head.weight")
            ),
            config=encoder_config,
            rules=encoder,
            holds=has_published_blocks,
            root="model.",
        ),
    ),
    image_processor=lambda config, evidence: cropped(config),
)
