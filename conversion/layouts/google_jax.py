"""Google's .npz files of ViT (arXiv 2010.11929) and AugReg (arXiv 2106.10270).

Source: https://github.com/google-research/vision_transformer, `vit_jax/models_vit.py` and `checkpoint.py`.
"""

from hf_vit_suite.models.configuration_vit import SuiteViTConfig
from hf_vit_suite.models.modeling_vit import SuiteViTForImageClassification

from ..layout import BILINEAR, HALF, Evidence, Form, Layout, has_published_blocks, label_count, square_side, squeezed
from ..rules import Rule, chained, fuse, permuted, rename, reshaped, within

BLOCK = "Transformer/encoderblock_{layer}/"
ATTENTION = "MultiHeadDotProductAttention_1/"
TRANSPOSED = permuted(1, 0)


def norm_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of a layer norm."""
    return [rename(f"{theirs}/scale", f"{ours}.weight"), rename(f"{theirs}/bias", f"{ours}.bias")]


def linear_rules(theirs: str, ours: str) -> list[Rule]:
    """Rules of a linear layer, whose kernel in JAX is `[inputs, outputs]`."""
    return [rename(f"{theirs}/kernel", f"{ours}.weight", TRANSPOSED), rename(f"{theirs}/bias", f"{ours}.bias")]


def attention_rules(config: SuiteViTConfig) -> list[Rule]:
    """JAX's query, key and value kernels are `[hidden, heads, d]`, its output kernel is `[heads, d, hidden]`."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    by_head = chained(reshaped((hidden, heads, -1), (hidden, hidden)), TRANSPOSED)
    parts = [f"{ATTENTION}{name}" for name in ("query", "key", "value")]
    return [
        fuse([f"{part}/kernel" for part in parts], "attention.qkv.weight", by_head),
        fuse([f"{part}/bias" for part in parts], "attention.qkv.bias", reshaped((heads, -1), (hidden,))),
        rename(
            f"{ATTENTION}out/kernel",
            "attention.proj.weight",
            chained(reshaped((heads, -1, hidden), (hidden, hidden)), TRANSPOSED),
        ),
        rename(f"{ATTENTION}out/bias", "attention.proj.bias"),
    ]


def rules(config: SuiteViTConfig) -> list[Rule]:
    """Rules of the encoder and the classifier."""
    block = [
        *norm_rules("LayerNorm_0", "norm1"),
        *attention_rules(config),
        *norm_rules("LayerNorm_2", "norm2"),
        *linear_rules("MlpBlock_3/Dense_0", "mlp.fc1"),
        *linear_rules("MlpBlock_3/Dense_1", "mlp.fc2"),
    ]
    encoder = [
        rename("cls", "embeddings.cls_token"),
        rename("Transformer/posembed_input/pos_embedding", "embeddings.position_embeddings"),
        rename("embedding/kernel", "embeddings.patch_embeddings.projection.weight", permuted(3, 2, 0, 1)),
        rename("embedding/bias", "embeddings.patch_embeddings.projection.bias"),
        *within(block, BLOCK, "encoder.blocks.{layer}."),
        *norm_rules("Transformer/encoder_norm", "norm"),
        *linear_rules("pre_logits", "pre_logits.0"),
    ]
    return [*within(encoder, ours="vit."), *linear_rules("head", "classifier")]


def config(evidence: Evidence) -> SuiteViTConfig:
    """Configuration from shapes, which here include the number of heads."""
    shapes = evidence.shapes
    patch, _, channels, hidden = evidence.shape_of("embedding/kernel", rank=4)
    positions = evidence.shape_of("Transformer/posembed_input/pos_embedding", rank=3)[1]
    first = BLOCK.replace("{layer}", "0")
    return SuiteViTConfig(
        hidden_size=hidden,
        num_hidden_layers=len({name.split("/")[1] for name in shapes if name.startswith(BLOCK.split("{")[0])}),
        num_attention_heads=shapes[f"{first}{ATTENTION}query/kernel"][1],
        intermediate_size=shapes[f"{first}MlpBlock_3/Dense_0/kernel"][1],
        patch_size=patch,
        num_channels=channels,
        image_size=patch * square_side(positions - 1, evidence),
        representation_size=shapes["pre_logits/bias"][0] if evidence.has("pre_logits/bias") else None,
        num_labels=label_count(evidence, "head/bias"),
    )


def holds(config: SuiteViTConfig) -> bool:
    """Whether a classifier has the architecture of the ViT paper."""
    return (
        has_published_blocks(config)
        and config.pooling == "cls"
        and config.mlp_type == "gelu"
        and config.layer_scale_init_value is None
        and config.classifier_input_size == (config.representation_size or config.hidden_size)
    )


LAYOUT = Layout(
    name="google-jax",
    forms=(
        Form(
            name="classifier",
            model=SuiteViTForImageClassification,
            recognises=lambda evidence: evidence.has("embedding/kernel", "cls"),
            config=config,
            rules=rules,
            holds=holds,
            suffix=".npz",
        ),
    ),
    image_processor=lambda config, evidence: squeezed(config, HALF, HALF, BILINEAR),
)
