"""Files with random weights in exactly the published forms, each with the reference's own outputs.

They are made by the reference's code where it installs (timm, open_clip, transformers), else by the names and shapes
that the publishers' code has, under weights of a model that computes the same.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import timm
import torch
import torch.nn.functional as F
import transformers
from references import randomise
from safetensors.torch import load_file, save_file
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIZES = {"img_size": 32, "patch_size": 16, "embed_dim": 192, "depth": 2, "num_heads": 3}
TRANSFORMERS_SIZES = {
    "image_size": 32,
    "patch_size": 16,
    "hidden_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
NOISE = torch.rand(2, 4, generator=torch.Generator().manual_seed(8))
TEXTS = torch.tensor([[48, 1, 2, 49, 0, 0, 0], [48, 3, 4, 5, 6, 7, 49]])


@dataclass
class Published:
    """A published file and what its own code computes.

    Args:
        source: File or folder.
        model: Name of our class for it.
        compute: From our model to the outputs that are compared.
        expected: The reference's outputs.
        head: File of the classifier, where it is apart.
        options: What the weights don't tell.
    """

    source: Path
    model: str
    compute: Callable[[nn.Module], tuple[Tensor, ...]]
    expected: tuple[Tensor, ...]
    head: Path | None = None
    options: dict = field(default_factory=dict)


def vision_transformer(**options) -> VisionTransformer:
    """timm's, tiny, with random weights everywhere."""
    made = options.pop("made_by", VisionTransformer)
    return randomise(made(**{**SIZES, "num_classes": 5, **options}))


def classifies(model: nn.Module) -> tuple[Tensor, ...]:
    """Our classifier's logits."""
    return (model(PIXELS).logits,)


def encodes(model: nn.Module) -> tuple[Tensor, ...]:
    """Our encoder's tokens."""
    return (model(PIXELS).last_hidden_state,)


def saved(path: Path, content: dict) -> Path:
    """The same as `.pth`."""
    torch.save(content, path)
    return path


def of_timm(folder: Path, **options) -> Published:
    """timm's safetensors."""
    model = vision_transformer(**options)
    save_file(model.state_dict(), folder / "weights.safetensors")
    source = folder / "weights.safetensors"
    if model.num_classes == 0:
        return Published(source, "SuiteViTModel", encodes, (model.forward_features(PIXELS),))
    return Published(source, "SuiteViTForImageClassification", classifies, (model(PIXELS),))


def of_timm_pth(folder: Path, **options) -> Published:
    """timm's older files."""
    model = vision_transformer(**options)
    source = saved(folder / "vit.pth", model.state_dict())
    return Published(source, "SuiteViTForImageClassification", classifies, (model(PIXELS),))


def of_deit(folder: Path, **options) -> Published:
    """DeiT's container."""
    model = vision_transformer(**options)
    source = saved(folder / "deit.pth", {"model": model.state_dict()})
    return Published(source, "SuiteViTForImageClassification", classifies, (model(PIXELS),))


def of_deit_third(folder: Path) -> Published:
    """DeiT-III's own names of LayerScale."""
    model = vision_transformer(no_embed_class=True, init_values=1e-4)
    state = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in model.state_dict().items()
    }
    source = saved(folder / "deit_3.pth", {"model": state})
    return Published(source, "SuiteViTForImageClassification", classifies, (model(PIXELS),))


def google_arrays(model: VisionTransformer, heads: int = 3) -> dict[str, np.ndarray]:
    """A timm model under the names and shapes of Google's files."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    hidden = model.embed_dim
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for layer in range(len(model.blocks)):
        theirs, ours = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        for number, norm in ((0, "norm1"), (2, "norm2")):
            arrays[f"{theirs}/LayerNorm_{number}/scale"] = state[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/LayerNorm_{number}/bias"] = state[f"{ours}.{norm}.bias"]
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * hidden, (part + 1) * hidden)
            weight, bias = state[f"{ours}.attn.qkv.weight"][rows], state[f"{ours}.attn.qkv.bias"][rows]
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(hidden, heads, -1)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(heads, -1)
        arrays[f"{attention}/out/kernel"] = state[f"{ours}.attn.proj.weight"].T.reshape(heads, -1, hidden)
        arrays[f"{attention}/out/bias"] = state[f"{ours}.attn.proj.bias"]
        for number in (0, 1):
            arrays[f"{theirs}/MlpBlock_3/Dense_{number}/kernel"] = state[f"{ours}.mlp.fc{number + 1}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/Dense_{number}/bias"] = state[f"{ours}.mlp.fc{number + 1}.bias"]
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def of_google(folder: Path, prefix: str = "") -> Published:
    """ImageNet-1k's form; the expected outputs are of timm's own reader of it."""
    arrays = google_arrays(vision_transformer())
    np.savez(folder / "vit.npz", **{prefix + name: array for name, array in arrays.items()})
    reader = VisionTransformer(**SIZES, num_classes=5).eval()
    reader.load_pretrained(str(folder / "vit.npz"))
    return Published(folder / "vit.npz", "SuiteViTForImageClassification", classifies, (reader(PIXELS),))


def of_google_21k(folder: Path) -> Published:
    """ImageNet-21k's form, with a layer of tanh in front of the head."""
    model = vision_transformer()
    kernel, bias = torch.randn(192, 192) / 14, torch.randn(192)
    arrays = google_arrays(model) | {"pre_logits/kernel": kernel.numpy(), "pre_logits/bias": bias.numpy()}
    np.savez(folder / "vit21k.npz", **arrays)
    representation = torch.tanh(model.forward_features(PIXELS)[:, 0] @ kernel + bias)
    expected = model.head(representation)
    return Published(folder / "vit21k.npz", "SuiteViTForImageClassification", classifies, (expected,))


def mae_names(name: str) -> str:
    """transformers' name of a MAE tensor as the paper's code has it; queries, keys and values are still apart."""
    for theirs, paper in (
        ("vit.embeddings.cls_token", "cls_token"),
        ("vit.embeddings.position_embeddings", "pos_embed"),
        ("vit.embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("vit.layers.", "blocks."),
        ("decoder.decoder_layers.", "decoder_blocks."),
        ("vit.layernorm.", "norm."),
        ("decoder.", ""),
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.o_proj", "attn.proj"),
    ):
        name = name.replace(theirs, paper)
    return name


def of_mae_visualize(folder: Path) -> Published:
    """Encoder and decoder."""
    config = transformers.ViTMAEConfig(
        **TRANSFORMERS_SIZES,
        layer_norm_eps=1e-6,
        decoder_hidden_size=64,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=16,
        decoder_intermediate_size=128,
    )
    model = randomise(transformers.ViTMAEForPreTraining(config))
    state = {mae_names(name): tensor for name, tensor in model.state_dict().items()}
    for name in [name for name in state if ".attention.q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    reference = model(PIXELS, noise=NOISE)

    def compute(ours: nn.Module) -> tuple[Tensor, ...]:
        outputs = ours(PIXELS, noise=NOISE, predict_visible=True)
        return outputs.logits, outputs.loss

    source = saved(folder / "mae_visualize.pth", {"model": state})
    return Published(source, "SuiteMAEForPreTraining", compute, (reference.logits, reference.loss))


def of_mae_encoder(folder: Path) -> Published:
    """The pretrained encoder."""
    model = vision_transformer(num_classes=0)
    source = saved(folder / "mae_pretrain.pth", {"model": model.state_dict()})
    return Published(source, "SuiteMAEModel", encodes, (model.forward_features(PIXELS),))


def of_mae_finetuned(folder: Path) -> Published:
    """The fine-tuned classifier."""
    model = vision_transformer(global_pool="avg")
    source = saved(folder / "mae_finetuned.pth", {"model": model.state_dict()})
    return Published(source, "SuiteViTForImageClassification", classifies, (model(PIXELS),))


def of_dino(folder: Path) -> Published:
    """The backbone."""
    model = vision_transformer(num_classes=0)
    source = saved(folder / "dino_pretrain.pth", dict(model.state_dict()))
    return Published(source, "SuiteViTModel", encodes, (model.forward_features(PIXELS),))


def of_dino_full(folder: Path) -> Published:
    """Student, teacher, heads, centre, and what else training left."""
    content = {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "epoch": 3, "args": argparse.Namespace(lr=1)}
    models = {}
    for seed, name, module in ((1, "student", "module."), (2, "teacher", "")):
        backbone = randomise(vision_transformer(num_classes=0), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        shapes = {"mlp.0": (32, 192), "mlp.2": (32, 32), "mlp.4": (16, 32)}
        head = {}
        for layer, shape in shapes.items():
            head[f"{layer}.weight"] = torch.randn(shape, generator=generator) / 6
            head[f"{layer}.bias"] = torch.randn(shape[0], generator=generator)
        head["last_layer.weight_g"] = torch.rand(50, 1, generator=generator)
        head["last_layer.weight_v"] = torch.randn(50, 16, generator=generator)
        content[name] = {f"{module}backbone.{key}": tensor for key, tensor in backbone.state_dict().items()}
        content[name] |= {f"{module}head.{key}": tensor for key, tensor in head.items()}
        models[name] = backbone, head
    content["dino_loss"] = {"center": torch.randn(1, 50)}

    def logits(name: str) -> Tensor:
        backbone, head = models[name]
        hidden = backbone.forward_features(PIXELS)[:, 0]
        for layer in ("mlp.0", "mlp.2", "mlp.4"):
            hidden = F.linear(hidden, head[f"{layer}.weight"], head[f"{layer}.bias"])
            hidden = F.gelu(hidden) if layer != "mlp.4" else F.normalize(hidden, dim=-1)
        directions = F.normalize(head["last_layer.weight_v"], dim=1) * head["last_layer.weight_g"]
        return hidden @ directions.T

    def compute(ours: nn.Module) -> tuple[Tensor, ...]:
        student = ours.student_head(ours.student(PIXELS).pooler_output)
        return student, ours.teacher_head(ours.vit(PIXELS).pooler_output), ours.center.logits

    source = saved(folder / "dino_full_checkpoint.pth", content)
    expected = (logits("student"), logits("teacher"), content["dino_loss"]["center"][0])
    return Published(source, "SuiteDINOForPreTraining", compute, expected)


def of_dino_linear(folder: Path, layers: int) -> Published:
    """Backbone and linear classifier: 4 class tokens of small models, class token and mean of base ones."""
    model = vision_transformer(num_classes=0, depth=4)
    hidden = model.get_intermediate_layers(PIXELS, n=layers, norm=True, return_prefix_tokens=True)
    features = torch.cat([prefix[:, 0] for _, prefix in hidden], dim=-1)
    if layers == 1:  # as eval_linear.py lays them, channel by channel
        features = torch.stack((features, hidden[-1][0].mean(dim=1)), dim=-1).flatten(1)
    linear = nn.Linear(features.shape[1], 7)
    state = {f"module.linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    head = saved(folder / "linearweights.pth", {"epoch": 9, "state_dict": state, "best_acc": 77.0})
    source = saved(folder / "dino_pretrain.pth", dict(model.state_dict()))
    return Published(source, "SuiteViTForImageClassification", classifies, (linear(features),), head)


def dinov2_file(folder: Path, **options) -> tuple[Path, VisionTransformer]:
    """The backbone's file under DINOv2's names, and the timm model that reads it by timm's own filter."""
    has_registers = bool(options.get("reg_tokens"))
    model = vision_transformer(num_classes=0, init_values=1.0, no_embed_class=has_registers, **options)
    state = dict(model.state_dict())
    state["mask_token"] = torch.randn(1, 192)
    if has_registers:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat((torch.randn(1, 1, 192), state["pos_embed"]), dim=1)
    if "GluMlp" in str(options.get("mlp_layer")):
        state = {name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t for name, t in state.items()}
    source = saved(folder / "dinov2_pretrain.pth", state)
    loaded = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), model)
    model.load_state_dict(loaded)
    return source, model


def of_dinov2(folder: Path, **options) -> Published:
    """The backbone."""
    source, model = dinov2_file(folder, **options)
    return Published(source, "SuiteViTModel", encodes, (model.forward_features(PIXELS),))


def of_dinov2_linear(folder: Path, layers: int) -> Published:
    """Backbone and linear classifier."""
    source, model = dinov2_file(folder, depth=4, reg_tokens=4)
    hidden = model.get_intermediate_layers(PIXELS, n=layers, norm=True, return_prefix_tokens=True)
    features = torch.cat([*(prefix[:, 0] for _, prefix in hidden), hidden[-1][0].mean(dim=1)], dim=-1)
    linear = nn.Linear(features.shape[1], 7)
    head = saved(folder / "linear_head.pth", dict(linear.state_dict()))
    return Published(source, "SuiteViTForImageClassification", classifies, (linear(features),), head)


def clip_model(quick_gelu: bool, **options) -> open_clip.CLIP:
    """open_clip's, tiny."""
    return randomise(
        open_clip.CLIP(
            embed_dim=32,
            vision_cfg={"image_size": 32, "layers": 2, "width": 192, "patch_size": 16},
            text_cfg={"context_length": 7, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2},
            quick_gelu=quick_gelu,
            **options,
        )
    )


def clip_outputs(model: nn.Module) -> tuple[Tensor, ...]:
    """Our features of both towers and the similarities."""
    outputs = model(TEXTS, PIXELS)
    return outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image


def open_clip_outputs(model: open_clip.CLIP) -> tuple[Tensor, ...]:
    """Theirs."""
    images, texts = model.encode_image(PIXELS, normalize=True), model.encode_text(TEXTS, normalize=True)
    logits = model.logit_scale.exp() * images @ texts.T
    return images, texts, logits if model.logit_bias is None else logits + model.logit_bias


def of_open_clip(folder: Path, quick_gelu: bool, suffix: str, **options) -> Published:
    """open_clip's files; that a model has QuickGELU, its name says."""
    model = clip_model(quick_gelu, **options)
    source = folder / f"ViT-S-16{'-quickgelu' if quick_gelu else ''}{suffix}"
    state = dict(model.state_dict())
    if suffix == ".safetensors":
        save_file(state, source)
    else:
        torch.save(state, source)
    return Published(source, "SuiteCLIPModel", clip_outputs, open_clip_outputs(model))


class Scripted(nn.Module):
    """A module tree with code, to be saved as TorchScript."""

    def __init__(self, state: dict[str, Tensor]):
        super().__init__()
        for name in dict.fromkeys(name.partition(".")[0] for name in state):
            inner = {key.partition(".")[2]: tensor for key, tensor in state.items() if key.startswith(f"{name}.")}
            if inner:
                self.add_module(name, Scripted(inner))
            elif state[name].is_floating_point():
                self.register_parameter(name, nn.Parameter(state[name]))
            else:
                self.register_buffer(name, state[name])

    def forward(self, image: Tensor) -> Tensor:
        return image + 1


def script(path: Path, state: dict[str, Tensor]) -> Path:
    """A TorchScript archive with these weights."""
    torch.jit.save(torch.jit.script(Scripted(state).eval()), path)
    return path


def of_openai(folder: Path) -> Published:
    """OpenAI's archive: float16 but for norms, embeddings, tokens and scale."""
    model = clip_model(quick_gelu=True)
    open_clip.model.convert_weights_to_fp16(model)
    numbers = {"input_resolution": 32, "context_length": 7, "vocab_size": 50}
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    state |= {name: torch.tensor(number) for name, number in numbers.items()}
    source = script(folder / "ViT-S-16.pt", state)
    return Published(source, "SuiteCLIPModel", clip_outputs, open_clip_outputs(model.float()))


def of_transformers(folder: Path, architecture: str, is_original: bool, **options) -> Published:
    """A folder that transformers wrote, under the file's names (version 4) or the model's (version 5)."""
    theirs = getattr(transformers, architecture)
    sizes = {**TRANSFORMERS_SIZES, "layer_norm_eps": 1e-5, **options}
    if theirs.config_class.model_type.startswith("dinov2"):
        sizes.pop("intermediate_size")
    model = randomise(theirs(theirs.config_class(**sizes)))
    model.save_pretrained(folder / "theirs", save_original_format=is_original)
    outputs = model(PIXELS)
    if "Classification" in architecture:
        return Published(folder / "theirs", "SuiteViTForImageClassification", classifies, (outputs.logits,))

    def compute(ours: nn.Module) -> tuple[Tensor, ...]:
        found = ours(PIXELS)
        return found.last_hidden_state, found.pooler_output

    return Published(folder / "theirs", "SuiteViTModel", compute, (outputs.last_hidden_state, outputs.pooler_output))


def of_transformers_mae(folder: Path, is_original: bool) -> Published:
    """MAE with its decoder."""
    config = transformers.ViTMAEConfig(
        **TRANSFORMERS_SIZES,
        decoder_hidden_size=64,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
        norm_pix_loss=True,
    )
    model = randomise(transformers.ViTMAEForPreTraining(config))
    model.save_pretrained(folder / "theirs", save_original_format=is_original)
    if is_original:  # transformers 5 calls the decoder's layers otherwise than the Hub's files
        rename_in(folder / "theirs" / "model.safetensors", "decoder_encoder.layer.", "decoder_layers.")
    reference = model(PIXELS, noise=NOISE)

    def compute(ours: nn.Module) -> tuple[Tensor, ...]:
        return (ours(PIXELS, noise=NOISE).loss,)

    return Published(folder / "theirs", "SuiteMAEForPreTraining", compute, (reference.loss,))


def rename_in(path: Path, old: str, new: str) -> None:
    """Renames tensors of a safetensors file."""
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def of_transformers_clip(folder: Path, is_old: bool) -> Published:
    """CLIP; OpenAI's on the Hub have the numbers of the positions too, and say 2 for the end of text."""
    sizes = dict(TRANSFORMERS_SIZES)
    text = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 50,
        "max_position_embeddings": 7,
        "eos_token_id": 2 if is_old else 49,
        "bos_token_id": 48,
    }
    model = randomise(
        transformers.CLIPModel(transformers.CLIPConfig(vision_config=sizes, text_config=text, projection_dim=32))
    )
    model.save_pretrained(folder / "theirs")
    if is_old:
        path = folder / "theirs" / "model.safetensors"
        numbers = {
            f"{tower}.embeddings.position_ids": torch.arange(count).unsqueeze(0)
            for tower, count in (("text_model", 7), ("vision_model", 5))
        }
        save_file(load_file(path) | numbers, path, {"format": "pt"})
    outputs = model(TEXTS, PIXELS)
    expected = outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image
    return Published(folder / "theirs", "SuiteCLIPModel", clip_outputs, expected)


PUBLISHED: dict[str, Callable[[Path], Published]] = {
    "google-jax 1k": of_google,
    "google-jax 1k of an optimiser": partial(of_google, prefix="opt/target/"),
    "google-jax 21k": of_google_21k,
    "timm ViT": of_timm,
    "timm ViT pth": of_timm_pth,
    "timm encoder": partial(of_timm, num_classes=0),
    "timm mean pooling": partial(of_timm, global_pool="avg"),
    "timm distilled DeiT": partial(of_timm, made_by=VisionTransformerDistilled),
    "timm DeiT-III": partial(of_timm, no_embed_class=True, init_values=1e-4),
    "timm registers": partial(of_timm, num_classes=0, no_embed_class=True, reg_tokens=4, init_values=1e-4),
    "timm CLIP tower": partial(
        of_timm, pre_norm=True, norm_layer=lambda width, **kwargs: nn.LayerNorm(width, eps=1e-5)
    ),
    "timm SwiGLU": partial(
        of_timm,
        num_classes=0,
        init_values=1e-4,
        mlp_ratio=4 * 2 / 3,
        mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=nn.SiLU,
    ),
    "deit": of_deit,
    "deit distilled": partial(of_deit, made_by=VisionTransformerDistilled),
    "deit third": of_deit_third,
    "mae encoder": of_mae_encoder,
    "mae visualize": of_mae_visualize,
    "mae finetuned": of_mae_finetuned,
    "dino backbone": of_dino,
    "dino full": of_dino_full,
    "dino linear small": partial(of_dino_linear, layers=4),
    "dino linear base": partial(of_dino_linear, layers=1),
    "dinov2": of_dinov2,
    "dinov2 registers": partial(of_dinov2, reg_tokens=4),
    "dinov2 giant": partial(of_dinov2, mlp_ratio=4 * 2 / 3, mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU),
    "dinov2 linear": partial(of_dinov2_linear, layers=1),
    "dinov2 linear4": partial(of_dinov2_linear, layers=4),
    "openai-clip": of_openai,
    "open-clip": partial(of_open_clip, quick_gelu=False, suffix=".safetensors"),
    "open-clip quickgelu pth": partial(of_open_clip, quick_gelu=True, suffix=".pth"),
    "open-clip sigmoid": partial(of_open_clip, quick_gelu=False, suffix=".safetensors", init_logit_bias=-10.0),
    **{
        f"transformers{ending} {name}": partial(
            of_transformers, architecture=architecture, is_original=not ending, **options
        )
        for ending in ("", "-v5")
        for name, architecture, options in (
            ("vit", "ViTForImageClassification", {}),
            ("vit pooler", "ViTModel", {}),
            ("deit", "DeiTForImageClassificationWithTeacher", {}),
            ("dinov2", "Dinov2Model", {}),
            ("dinov2 linear", "Dinov2ForImageClassification", {}),
            ("dinov2 giant", "Dinov2Model", {"use_swiglu_ffn": True}),
            ("dinov2 registers", "Dinov2WithRegistersForImageClassification", {}),
        )
    },
    "transformers vit_mae": partial(of_transformers_mae, is_original=True),
    "transformers-v5 vit_mae": partial(of_transformers_mae, is_original=False),
    "transformers clip": partial(of_transformers_clip, is_old=False),
    "transformers clip of the Hub": partial(of_transformers_clip, is_old=True),
}
