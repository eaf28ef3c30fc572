"""`--verify`: compares the converted model with the reference's own, layer by layer, on equal weights and inputs."""

import importlib.util
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from .importing import Reference
from .layout import HEAD
from .layouts.open_clip import CUSTOM

# Relative tolerance in float32, which allows for a different order of summation.
TOLERANCE = 1e-5
IMAGES = 2
PIP_NAMES = {"open_clip": "open_clip_torch"}


class Outputs(NamedTuple):
    """Intermediate and final outputs of a model.

    Args:
        layers: Output tokens of each layer, by the layer's name.
        kind: Kind of the output: `"tokens"` of an encoder, `"logits"`, a masked autoencoder's `"pixels"`, or
            `"similarities"` of images and texts.
        output: Final output.
    """

    layers: dict[str, Tensor]
    kind: str
    output: Tensor


class Inputs(NamedTuple):
    """Inputs of both models.

    Args:
        pixel_values: `[images, channels, height, width]`.
        noise: `[images, patches]`, from which masked autoencoders choose the masked patches.
        input_ids: `[texts, tokens]`, as many texts as images; `None` for models without a text tower.
    """

    pixel_values: Tensor
    noise: Tensor
    input_ids: Tensor | None


def verify(reference: Reference, model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Prints the largest absolute difference per layer and of the output, relative to the reference's largest value.

    Args:
        reference: Recognised reference weights, on which the reference's own model runs.
        model: Converted model.
        dtype: Dtype that the weights were cast to; a cast causes larger differences, so it disables the tolerance.

    Raises:
        ValueError: If the reference's package is missing, or the models differ by more than 1e-5 without a cast.
    """
    package = reference.layout.package
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"--verify runs the reference's model: pip install {PIP_NAMES.get(package, package)}")
    inputs = make_inputs(reference)
    with torch.no_grad():
        theirs = RUNNERS[package](reference, inputs)
        ours = run_ours(model.float().eval(), inputs, theirs.kind)
    differences = {name: difference(ours.layers[name], value) for name, value in theirs.layers.items()}
    differences["output"] = difference(ours.output, theirs.output)
    table = Table(box=None)
    table.add_column(f"compared with {package}")
    table.add_column("largest relative difference", justify="right")
    for name, value in differences.items():
        table.add_row(name, f"{value:.1e}")
    Console().print(table)
    if dtype is None and not max(differences.values()) <= TOLERANCE:
        raise ValueError(f"the converted model differs from {package}'s by more than {TOLERANCE:g}: nothing was kept")


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, divided by the largest absolute expected value."""
    if found.shape != expected.shape:
        raise ValueError(f"the models' outputs have other shapes: {list(found.shape)} and {list(expected.shape)}")
    return ((found - expected).abs().max() / expected.abs().max()).item()


def make_inputs(reference: Reference) -> Inputs:
    """Random inputs of the model's input size, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    vision = getattr(reference.config, "vision_config", reference.config)
    rows, columns = vision.grid_height_width
    pixels = torch.randn(IMAGES, vision.num_channels, *vision.image_height_width, generator=generator)
    input_ids = None
    if text := getattr(reference.config, "text_config", None):
        input_ids = torch.randint(text.vocab_size - 2, (IMAGES, text.max_position_embeddings), generator=generator)
        input_ids[:, -1] = text.eos_token_id
    return Inputs(pixels, torch.rand(IMAGES, rows * columns, generator=generator), input_ids)


def run_ours(model: PreTrainedModel, inputs: Inputs, kind: str) -> Outputs:
    """Runs the converted model; `kind` selects the output to compare."""
    if kind == "similarities":
        found = model(inputs.input_ids, inputs.pixel_values, output_hidden_states=True)
        return towers_outputs(found.vision_model_output, found.text_model_output, found.logits_per_image)
    if kind == "tokens":
        model = getattr(model, "vit", model)
    options = {"noise": inputs.noise, "predict_visible": True} if kind == "pixels" else {}
    found = model(inputs.pixel_values, output_hidden_states=True, **options)
    output = found.last_hidden_state if kind == "tokens" else found.logits
    return Outputs(named("layer", found.hidden_states[1:]), kind, output)


def towers_outputs(vision, text, similarities: Tensor) -> Outputs:
    """Outputs of a model with an image tower and a text tower."""
    layers = named("image layer", vision.hidden_states[1:]) | named("text layer", text.hidden_states[1:])
    return Outputs(layers, "similarities", similarities)


def named(name: str, layers: Sequence[Tensor]) -> dict[str, Tensor]:
    """Names layers by number, starting at 1."""
    return {f"{name} {number}": layer for number, layer in enumerate(layers, start=1)}


def collected(blocks: nn.ModuleList) -> list[Tensor]:
    """Registers hooks that append each block's output to the returned list when the model runs."""
    outputs: list[Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    return outputs


def run_timm(reference: Reference, inputs: Inputs) -> Outputs:
    """Runs timm's model, with weights loaded by timm's code. Only the encoder and a linear classifier are compared."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    source = reference.sources[0]
    apart = (HEAD, "student.", "teacher.head.", "dino_loss.", "decoder_", "pre_logits")
    state = {
        name.removeprefix("teacher.backbone."): source.read(name).float()
        for name in reference.evidence.shapes
        if not name.startswith(apart)
    }
    has_head = "pre_logits/bias" not in reference.evidence.shapes and {"head.weight", "head/kernel"} & set(state)
    model = timm_model(reference, state, reference.config.num_labels if has_head else 0)
    if reference.layout.name == "google-jax":
        model.load_pretrained(str(reference.located.weights))
    else:
        if "decoder_embed.weight" in reference.evidence.shapes:
            del state["mask_token"]  # the decoder's; with it, timm would treat the file as DINOv2
        model.load_state_dict(checkpoint_filter_fn(state, model, adapt_layer_scale=True))
    layers = collected(model.eval().blocks)
    output = model(inputs.pixel_values) if has_head else model.forward_features(inputs.pixel_values)
    return Outputs(named("layer", layers), "logits" if has_head else "tokens", output)


def timm_model(reference: Reference, state: dict[str, Tensor], num_classes: int) -> nn.Module:
    """timm's model that the settings name, else a `VisionTransformer` built from our configuration."""
    import timm
    from timm.layers import SwiGLUPacked
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    config = reference.config
    if name := reference.evidence.settings.get("architecture"):
        return timm.create_model(name, num_classes=num_classes)
    is_gated = config.mlp_type == "swiglu"
    rows, columns = config.grid_height_width
    options = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if is_gated else {}
    if config.hidden_act == "quick_gelu":
        options["act_layer"] = "quick_gelu"
    return (VisionTransformerDistilled if config.use_distillation_token else VisionTransformer)(
        img_size=config.image_height_width,
        patch_size=config.patch_size,
        in_chans=config.num_channels,
        num_classes=num_classes,
        global_pool="avg" if getattr(config, "pooling", "cls") == "mean" else "token",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size * (1 + is_gated) / config.hidden_size,
        qkv_bias=config.qkv_bias,
        init_values=config.layer_scale_init_value,
        reg_tokens=config.num_register_tokens,
        no_embed_class="register_tokens" in state
        or ("pos_embed" in state and state["pos_embed"].shape[1] == rows * columns),
        pre_norm=config.use_pre_norm,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
        **options,
    )


def run_open_clip(reference: Reference, inputs: Inputs) -> Outputs:
    """Runs open_clip's model."""
    import open_clip

    source = reference.sources[0]
    state = {name.removeprefix(CUSTOM): source.read(name).float() for name in reference.evidence.shapes}
    for name in ("input_resolution", "context_length", "vocab_size"):
        state.pop(name, None)
    told = reference.evidence.settings.get("model_cfg") or open_clip_settings(
        reference, has_bias="logit_bias" in state
    )
    model = open_clip.CLIP(**told).eval()
    model.load_state_dict(state)
    image_layers = collected(model.visual.transformer.resblocks)
    text_layers = collected(model.transformer.resblocks)
    similarities, _ = model.get_logits(inputs.pixel_values, inputs.input_ids)
    layers = named("image layer", image_layers) | named("text layer", text_layers)
    return Outputs(layers, "similarities", similarities)


def open_clip_settings(reference: Reference, has_bias: bool) -> dict[str, Any]:
    """open_clip's model settings, built from our configuration for files without settings."""
    vision, text = reference.config.vision_config, reference.config.text_config
    return {
        "embed_dim": reference.config.projection_dim,
        "vision_cfg": {
            "image_size": vision.image_height_width,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "patch_size": vision.patch_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "init_logit_bias": 0.0 if has_bias else None,
    }


def run_transformers(reference: Reference, inputs: Inputs) -> Outputs:
    """Runs transformers' model, loaded from the source's folder."""
    import transformers

    form, folder = reference.form, reference.located.folder
    (architecture,) = form.settings(reference.config)["architectures"]
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    if inputs.input_ids is not None:
        found = model(inputs.input_ids, inputs.pixel_values, output_hidden_states=True)
        return towers_outputs(found.vision_model_output, found.text_model_output, found.logits_per_image)
    is_autoencoder = architecture == "ViTMAEForPreTraining"
    options = {"noise": inputs.noise} if is_autoencoder else {}
    found = model(inputs.pixel_values, output_hidden_states=True, **options)
    kind = "pixels" if is_autoencoder else "logits" if hasattr(found, "logits") else "tokens"
    output = found.last_hidden_state if kind == "tokens" else found.logits
    return Outputs(named("layer", found.hidden_states[1:]), kind, output)


RUNNERS: dict[str, Callable[[Reference, Inputs], Outputs]] = {
    "timm": run_timm,
    "open_clip": run_open_clip,
    "transformers": run_transformers,
}
