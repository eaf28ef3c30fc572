"""Weights of reference models as ours, and the measure of equality.

The tables here are written for the tests, so that they check the models without the package's converters.
"""

import re

import torch
from torch import Tensor, nn


def relative_difference(found: Tensor, reference: Tensor) -> float:
    """Largest absolute difference over the reference's largest absolute value."""
    return ((found - reference).abs().max() / reference.abs().max()).item()


def assert_equals_reference(found: Tensor, reference: Tensor, tolerance: float = 1e-5, name: str = "") -> None:
    """Same shape, and `relative_difference` at most `tolerance`, in float32."""
    assert found.shape == reference.shape, name
    assert relative_difference(found, reference) <= tolerance, name


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, scale: float = 0.05) -> nn.Module:
    """Makes every weight random, so that no bias, norm or token is trivially zero or one."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return model.eval()


def rename(state: dict[str, Tensor], rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    """Applies every regular expression to every key."""
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def fuse(state: dict[str, Tensor], parts: tuple[str, ...], whole: str) -> dict[str, Tensor]:
    """Stacks the rows of sibling layers: `x.q.weight`, `x.k.weight`, ... to `x.whole.weight`."""
    fused = {key: value for key, value in state.items() if not any(f".{part}." in key for part in parts)}
    for key in state:
        if f".{parts[0]}." in key:
            stacked = [state[key.replace(f".{parts[0]}.", f".{part}.")] for part in parts]
            fused[key.replace(f".{parts[0]}.", f".{whole}.")] = torch.cat(stacked)
    return fused


def from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's VisionTransformer as our classifier."""
    return rename(
        state,
        [
            (r"^cls_token", "vit.embeddings.cls_token"),
            (r"^dist_token", "vit.embeddings.distillation_token"),
            (r"^reg_token", "vit.embeddings.register_tokens"),
            (r"^pos_embed", "vit.embeddings.position_embeddings"),
            (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
            (r"^blocks\.", "vit.encoder.blocks."),
            (r"\.attn\.", ".attention."),
            (r"\.ls(\d)\.", r".scale\1."),
            (r"^(fc_)?norm\.", "vit.norm."),
            (r"^head\.", "classifier."),
            (r"^head_dist\.", "distillation_classifier."),
        ],
    )


def from_transformers_vit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' ViTForImageClassification as our classifier."""
    state = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    return rename(
        state,
        [
            (r"^vit\.layers\.", "vit.encoder.blocks."),
            (r"\.o_proj\.", ".proj."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"^vit\.layernorm\.", "vit.norm."),
        ],
    )


def from_transformers_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' Dinov2 models, with or without registers, as our encoder."""
    state = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    state = fuse(state, ("gate_proj", "up_proj"), "gate_up")
    return rename(
        state,
        [
            (r"^encoder\.layer\.", "encoder.blocks."),
            (r"\.o_proj\.", ".proj."),
            (r"\.layer_scale(\d)\.lambda1", r".scale\1.gamma"),
            (r"\.down_proj\.", ".down."),
            (r"^layernorm\.", "norm."),
        ],
    )


def from_transformers_mae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' ViTMAEForPreTraining as ours."""
    state = rename(
        state,
        [
            (r"^decoder\.decoder_layers\.", "decoder.trunk.blocks."),
            (r"^decoder\.decoder_pos_embed", "decoder.position_embeddings"),
            (r"^decoder\.decoder_", "decoder."),
            (r"^decoder\.pred\.", "decoder.predict."),
        ],
    )
    return from_transformers_vit(state)


def from_transformers_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' CLIPModel as ours."""
    state = fuse(state, ("q_proj", "k_proj", "v_proj"), "qkv")
    state = rename(
        state,
        [
            (r"\.encoder\.layers\.", ".encoder.blocks."),
            (r"\.self_attn\.", ".attention."),
            (r"\.out_proj\.", ".proj."),
            (r"\.layer_norm(\d)\.", r".norm\1."),
            (r"\.pre_layrnorm\.", ".pre_norm."),
            (r"\.(post_layernorm|final_layer_norm)\.", ".norm."),
            (r"\.class_embedding$", ".cls_token"),
            (r"\.patch_embedding\.", ".patch_embeddings.projection."),
            (r"\.position_embedding\.weight", ".position_embeddings"),
            (r"\.token_embedding\.", ".token_embeddings."),
        ],
    )
    return with_leading_ones(state)


def from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's CLIP as ours."""
    state = rename(
        state,
        [
            (r"^visual\.proj$", "visual_projection.weight"),
            (r"^text_projection$", "text_projection.weight"),
            (r"^visual\.transformer\.", "vision_model.encoder."),
            (r"^transformer\.", "text_model.encoder."),
            (r"\.resblocks\.", ".blocks."),
            (r"\.ln_(\d)\.", r".norm\1."),
            (r"\.attn\.in_proj_", ".attention.qkv."),
            (r"\.attn\.out_proj\.", ".attention.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
            (r"^visual\.ln_pre\.", "vision_model.pre_norm."),
            (r"^visual\.ln_post\.", "vision_model.norm."),
            (r"^visual\.conv1\.", "vision_model.embeddings.patch_embeddings.projection."),
            (r"^visual\.class_embedding", "vision_model.embeddings.cls_token"),
            (r"^visual\.positional_embedding", "vision_model.embeddings.position_embeddings"),
            (r"^token_embedding\.", "text_model.embeddings.token_embeddings."),
            (r"^positional_embedding", "text_model.embeddings.position_embeddings"),
            (r"^ln_final\.", "text_model.norm."),
        ],
    )
    # x @ matrix there, the linear layer's x @ matrix.T here.
    projections = {name: state[name].T for name in ("visual_projection.weight", "text_projection.weight")}
    return with_leading_ones(state | projections)


def with_leading_ones(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's class token and positions, `[hidden]` and `[tokens, hidden]` there, with our leading ones."""
    token = "vision_model.embeddings.cls_token"
    tables = [f"{tower}.embeddings.position_embeddings" for tower in ("vision_model", "text_model")]
    return state | {token: state[token].view(1, 1, -1)} | {table: state[table].unsqueeze(0) for table in tables}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by parameter name."""
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
