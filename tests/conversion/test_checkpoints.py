"""Checkpoints that training programs leave: the model in them is found, and the rest is named."""

import argparse
import logging
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hf_vit_suite.conversion import convert, export_reference, load
from published import PIXELS, PUBLISHED, TEXTS, clip_model, open_clip_outputs, vision_transformer
from references import assert_equals_reference, randomise
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_vit_suite.cli import main

State = dict[str, Tensor]
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]}
CHUNKED = r"blocks\.(\d+)\."


def state(seed: int = 0, **options) -> State:
    """Weights of a tiny timm model."""
    return dict(randomise(vision_transformer(**options), seed=seed).state_dict())


def prefixed(prefix: str, weights: State) -> State:
    """The same tensors under a prefix."""
    return {prefix + name: tensor for name, tensor in weights.items()}


def saved(folder: Path, content: object) -> Path:
    """A checkpoint."""
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@torch.no_grad()
def assert_holds(path: Path, expected: State, **options) -> None:
    """The checkpoint's model computes what timm's computes with these weights."""
    made = {"num_classes": 5 if "head.weight" in expected else 0}
    if "blocks.0.ls1.gamma" in expected:
        made["init_values"] = 1.0
    reference = vision_transformer(**made)
    reference.load_state_dict({name: tensor for name, tensor in expected.items() if name != "mask_token"})
    model = load(path, **options)
    if made["num_classes"]:
        assert_equals_reference(model(PIXELS).logits, reference(PIXELS))
    else:
        assert_equals_reference(model(PIXELS).last_hidden_state, reference.forward_features(PIXELS))


def wrapped_layers(weights: State) -> State:
    """FSDP and activation checkpointing around the model and each block."""
    inner = "_fsdp_wrapped_module._checkpoint_wrapped_module."
    return prefixed("_fsdp_wrapped_module.", in_blocks(inner, weights))


def in_blocks(inner: str, weights: State) -> State:
    """A prefix inside each block's names."""
    return {re.sub(CHUNKED, rf"blocks.\1.{inner}", name): tensor for name, tensor in weights.items()}


# What training programs store around the weights of a classifier.
AROUND: dict[str, Callable[[State], dict]] = {
    "entry in an entry": lambda w: {"checkpoint": {"model": w, "optimizer": OPTIMIZER}, "step": 3},
    "three entries": lambda w: {"run": {"last": {"state_dict": prefixed("module.", w)}}, "config": {"lr": 0.1}},
    "PyTorch's tutorial": lambda w: {
        "epoch": 3,
        "model_state_dict": w,
        "optimizer_state_dict": OPTIMIZER,
        "loss": 0.5,
    },
    "an entry of its own name": lambda w: {"vit_weights": w, "optim": OPTIMIZER},
    "Lightning, net": lambda w: {
        "state_dict": prefixed("net.", w),
        "loops": {"fit": {}},
        "callbacks": {"a": {"b": 1}},
    },
    "Lightning, encoder": lambda w: {
        "state_dict": prefixed("encoder.", w) | {"criterion.weight": torch.ones(5), "val_acc.total": torch.tensor(3)}
    },
    "Lightning, two levels": lambda w: {"state_dict": prefixed("model.backbone.", w), "hyper_parameters": {"lr": 1}},
    "Lightning, compiled": lambda w: {"state_dict": prefixed("model._orig_mod.", w), "optimizer_states": [OPTIMIZER]},
    "DeepSpeed": lambda w: {"module": w, "ds_config": {"zero": 0}, "ds_version": "0.15", "param_shapes": [{}]},
    "Lightning with DeepSpeed": lambda w: {"module": prefixed("_forward_module.model.", w), "global_step": 9},
    "FSDP's full state": lambda w: {"model": wrapped_layers(w), "optimizer": OPTIMIZER},
    "compiled blocks": lambda w: {"model": in_blocks("_orig_mod.", w)},
    "compiled in DDP in a module": lambda w: prefixed("net.module._orig_mod.", w),
    "loss beside the weights": lambda w: w | {"loss_fn.center": torch.zeros(1, 7), "n_averaged": torch.tensor(2)},
    "values beside the weights": lambda w: w | {"epoch": 3, "best_acc1": 71.5, "note": "ours"},
    "one model twice": lambda w: {"state_dict": prefixed("model.backbone.", w) | prefixed("backbone.", w)},
    "one dictionary twice": lambda w: {"model": w, "state_dict": w, "scaler": {"scale": 1.0}},
    "optimizer of names": lambda w: {"model": w, "optim": {"state": {name: {"exp_avg": t} for name, t in w.items()}}},
}


@pytest.mark.parametrize("name", AROUND)
def test_a_model_is_found_whatever_is_around_it(name: str, tmp_path: Path):
    weights = state()
    assert_holds(saved(tmp_path, AROUND[name](weights)), weights)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.vit."])
def test_prefixes_in_safetensors_are_removed_too(prefix: str, tmp_path: Path):
    weights = state()
    save_file(prefixed(prefix, weights), tmp_path / "model.safetensors")
    assert_holds(tmp_path / "model.safetensors", weights)


@pytest.mark.parametrize("name", ["last.ckpt", "model_best.pth.tar", "run.pt"])
def test_the_only_checkpoint_of_a_folder_is_found(name: str, tmp_path: Path):
    weights = state()
    torch.save({"state_dict": weights}, tmp_path / name)
    (tmp_path / "args.yaml").write_text("lr: 0.1")
    assert_holds(tmp_path, weights)


# Plain and averaged weights, and the name that the note gives for the latter.
AVERAGED: dict[str, tuple[Callable[[State, State], dict], str]] = {
    "entry": (lambda w, ema: {"state_dict": w, "ema_state_dict": ema}, "ema_state_dict"),
    "averaged first": (lambda w, ema: {"ema": {"module": ema, "decay": 0.99}, "model": w}, "ema"),
    "AveragedModel": (
        lambda w, ema: {"net": w, "swa_model": prefixed("module.", ema) | {"n_averaged": torch.tensor(4)}},
        "swa_model",
    ),
    "Lightning": (
        lambda w, ema: {"state_dict": prefixed("model.", w) | prefixed("model_ema.module.", ema)},
        "state_dict.model_ema",
    ),
    "nested": (lambda w, ema: {"ckpt": {"model": w, "modelEMA_": {}, "ema_model": ema}}, "ckpt.ema_model"),
    "momentum encoder": (
        lambda w, ema: {"state_dict": prefixed("module.base.", w) | prefixed("module.momentum.", ema)},
        "state_dict.momentum",
    ),
}


@pytest.mark.parametrize("name", AVERAGED)
def test_averaged_weights_are_named_and_taken_on_request(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    make, told = AVERAGED[name]
    weights, averaged = state(), state(seed=1)
    path = saved(tmp_path, make(weights, averaged) | {"optimizer": OPTIMIZER})
    assert_holds(path, weights)
    assert f"there too: {told} (averaged weights); --weights {told} takes them" in caplog.text
    assert_holds(path, averaged, weights=told)
    assert_holds(path, averaged, weights="ema")


def test_averaged_weights_alone_are_taken(tmp_path: Path):
    weights = state()
    assert_holds(saved(tmp_path, {"state_dict_ema": prefixed("module.", weights), "epoch": 3}), weights)


def test_averaged_weights_are_read_in_the_layout_of_the_plain_ones(tmp_path: Path):
    path = saved(tmp_path, {"model": state(num_classes=0), "model_ema": state(seed=1, num_classes=0)})
    assert type(load(path)) is type(load(path, weights="ema"))
    assert type(load(path)).__name__ == "SuiteMAEModel"


def test_weights_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path):
    path = saved(tmp_path, {"model": state(), "model_ema": state()})
    with pytest.raises(ValueError, match=r"no weights 'teacher' \(there: model, model_ema\)"):
        load(path, weights="teacher")


# Two models that no rule chooses between, and the option for the second.
EQUAL: dict[str, tuple[Callable[[State, State], dict], str]] = {
    "prefixes": (lambda a, b: prefixed("net1.", a) | prefixed("net2.", b), "net2"),
    "entries": (lambda a, b: {"generator": a, "discriminator": prefixed("module.", b)}, "discriminator"),
    "Lightning": (lambda a, b: {"state_dict": prefixed("left.vit.", a) | prefixed("right.vit.", b)}, "right"),
}


@pytest.mark.parametrize("name", EQUAL)
def test_two_equal_models_ask_which(name: str, tmp_path: Path):
    make, second = EQUAL[name]
    weights, other = state(), state(seed=1)
    path = saved(tmp_path, make(weights, other))
    with pytest.raises(ValueError, match=rf"holds several models.*{second}.*: choose one, --weights"):
        load(path)
    assert_holds(path, other, weights=second)


def dinov2_state(seed: int = 0) -> State:
    """Weights of a tiny backbone under DINOv2's names."""
    return {"mask_token": torch.zeros(1, 192), **state(seed, num_classes=0, init_values=1.0, depth=4)}


def chunked(weights: State, size: int, is_local: bool = False) -> State:
    """Blocks in chunks of a size; `is_local` numbers them from 0 in each chunk."""

    def name_in_chunk(match: re.Match) -> str:
        layer = int(match[1])
        return f"blocks.{layer // size}.{layer % size if is_local else layer}."

    return {re.sub(CHUNKED, name_in_chunk, name): tensor for name, tensor in weights.items()}


def head(prefix: str) -> State:
    """A projection head."""
    shapes = {"mlp.0.weight": (8, 192), "last_layer.weight_g": (9, 1), "last_layer.weight_v": (9, 8)}
    return prefixed(prefix, {name: torch.ones(shape) for name, shape in shapes.items()})


# Files with a teacher, and perhaps a student.
TEACHERS: dict[str, Callable[[State, State], dict]] = {
    "teacher alone, heads": lambda t, s: {
        "teacher": prefixed("backbone.", t) | head("dino_head.") | head("ibot_head."),
        "iteration": 9,
    },
    "teacher in DDP, compiled": lambda t, s: {
        "teacher": prefixed("module._orig_mod.backbone.", t) | head("module.head.")
    },
    "one block a chunk": lambda t, s: {"teacher": prefixed("backbone.", chunked(t, 1))},
    "chunks count from 0": lambda t, s: {"model": prefixed("teacher.backbone.", chunked(t, 2, is_local=True))},
    "chunks in FSDP": lambda t, s: {
        "model": prefixed("_fsdp_wrapped_module.teacher.backbone.", in_blocks("_fsdp_wrapped_module.", chunked(t, 2)))
    },
    "student first": lambda t, s: {
        "model": prefixed("student.backbone.", chunked(s, 4))
        | prefixed("teacher.backbone.", chunked(t, 4))
        | {"ibot_patch_loss.center": torch.zeros(1, 1, 9), "dino_loss.center": torch.zeros(1, 9)},
        "optimizer": OPTIMIZER,
        "scheduler": {"last_epoch": 3},
    },
    "iBOT": lambda t, s: {
        "student": prefixed("module.backbone.", s) | head("module.head."),
        "teacher": prefixed("backbone.", t) | head("head."),
        "ibot_loss": {"center": torch.zeros(1, 9), "center2": torch.zeros(1, 1, 9)},
        "args": argparse.Namespace(arch="vit_small"),
    },
    "Lightning": lambda t, s: {"state_dict": prefixed("student.", s) | prefixed("teacher.", t)},
    "head inside": lambda t, s: {"teacher": prefixed("encoder.", t) | head("encoder.head.")},
}


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_is_taken_and_the_student_on_request(name: str, tmp_path: Path):
    teacher, student = dinov2_state(), dinov2_state(seed=1)
    content = TEACHERS[name](teacher, student)
    assert_same_model(load(saved(tmp_path, content)), teacher, tmp_path)
    if any("student" in key for key in [*content, *content.get("state_dict", {}), *content.get("model", {})]):
        assert_same_model(load(saved(tmp_path, content), weights="student"), student, tmp_path)


@torch.no_grad()
def assert_same_model(model: nn.Module, weights: State, folder: Path) -> None:
    """The model is the one of the plain file, configuration included."""
    torch.save(weights, folder / "plain.pth")
    plain = load(folder / "plain.pth")
    assert type(model) is type(plain)
    assert model.config.to_dict() == plain.config.to_dict()
    assert_equals_reference(model(PIXELS).last_hidden_state, plain(PIXELS).last_hidden_state)


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", "module._orig_mod.backbone."])
def test_dinos_backbone_is_recognised_as_dinos(prefix: str, tmp_path: Path):
    backbone = state(num_classes=0)
    assert_same_model(load(saved(tmp_path, {"teacher": prefixed(prefix, backbone)})), backbone, tmp_path)
    assert_same_model(load(saved(tmp_path, prefixed(prefix, backbone))), backbone, tmp_path)


@pytest.mark.parametrize(
    ("student", "teacher"), [("", ""), ("module.", "module."), ("module._orig_mod.", "_orig_mod.")]
)
def test_a_full_dino_checkpoint_is_whole_under_other_wrappers(student: str, teacher: str, tmp_path: Path):
    published = PUBLISHED["dino full"](tmp_path)
    content = torch.load(published.source, weights_only=False)
    plain = {name.removeprefix("module."): tensor for name, tensor in content["student"].items()}
    content |= {"student": prefixed(student, plain), "teacher": prefixed(teacher, content["teacher"])}
    torch.save(content, published.source)
    with torch.no_grad():
        found = published.compute(convert(published.source, tmp_path / "ours"))
    for ours, theirs in zip(found, published.expected, strict=True):
        assert_equals_reference(ours, theirs)
    assert type(load(published.source, weights="teacher")).__name__ == "SuiteViTModel"


def test_a_classifier_continues_from_the_teacher_of_a_full_checkpoint(tmp_path: Path):
    source = PUBLISHED["dino full"](tmp_path).source
    weight = torch.randn(7, 192)
    linear = {"module.linear.weight": weight, "module.linear.bias": weight[:, 0].clone()}
    torch.save({"epoch": 9, "state_dict": linear, "best_acc": np.float64(77)}, tmp_path / "head.pth")
    assert torch.equal(load(source, head=tmp_path / "head.pth").classifier.weight, weight)


def test_a_checkpoint_is_exported_as_the_published_file(tmp_path: Path):
    backbone = dinov2_state()
    path = saved(tmp_path, {"model": prefixed("teacher.backbone.", chunked(backbone, 2)), "optimizer": OPTIMIZER})
    convert(path, tmp_path / "ours")
    export_reference(tmp_path / "ours", tmp_path / "back.pth", "dinov2")
    back = torch.load(tmp_path / "back.pth")
    assert back.keys() == backbone.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in backbone.items())


def test_the_command_says_what_it_took_and_left(tmp_path: Path, capsys: pytest.CaptureFixture):
    content = {
        "state_dict": prefixed("model.", state()) | {"criterion.weight": torch.ones(5)},
        "ema": state(seed=1),
        "optimizer": OPTIMIZER,
        "epoch": np.int64(3),
    }
    path = saved(tmp_path, content)
    assert main(["convert", str(path), str(tmp_path / "out"), "--layout", "timm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "took state_dict.model (plain weights)" in lines
    assert "there too: ema (averaged weights); --weights ema takes them" in lines
    assert "left aside: state_dict.criterion, optimizer, epoch" in lines
    assert main(["convert", str(path), str(tmp_path / "ema"), "--weights", "ema"]) == 0
    assert "took ema (averaged weights)" in capsys.readouterr().out
    weights = load(tmp_path / "ema").classifier.weight
    assert torch.equal(weights, content["ema"]["head.weight"])


@pytest.mark.parametrize("entry", ["", "model", "state_dict"])
def test_an_encoder_with_later_parts_is_taken_for_no_earlier_family(entry: str, tmp_path: Path):
    weights = state(num_classes=0, init_values=1.0)
    assert_holds(saved(tmp_path, {entry: weights} if entry else weights), weights)


def test_a_head_beside_the_backbone_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    backbone = state(num_classes=0)
    path = saved(tmp_path, {"state_dict": prefixed("backbone.", backbone) | {"head.weight": torch.ones(5, 192)}})
    assert_holds(path, backbone)
    assert "left aside: state_dict.head" in caplog.text


@pytest.mark.parametrize("name", ["blocks.0.attn.stranger", "attn_pool.latent", "head.norm.weight"])
def test_an_unknown_part_of_the_model_is_still_refused(name: str, tmp_path: Path):
    path = saved(tmp_path, {"state_dict": prefixed("model.", state() | {name: torch.ones(3)}), "epoch": 3})
    with pytest.raises(ValueError, match=f"1 tensors have no place: {name}"):
        load(path)


def test_a_name_that_occurs_twice_is_refused(tmp_path: Path):
    path = saved(tmp_path, {**prefixed("model.", state()), "model": state(seed=1)})
    with pytest.raises(ValueError, match=r"holds model.cls_token twice"):
        load(path)


def test_dictionaries_that_contain_each_other_are_read_once(tmp_path: Path):
    weights, loop = state(), {}
    shared = loop["self"] = loop
    for _ in range(40):
        shared = {"left": shared, "right": shared}
    assert_holds(saved(tmp_path, {"model": weights, "loop": loop, "shared": shared}), weights)


def open_clip_checkpoint(weights: State, prefix: str = "module.", name: str = "run") -> dict:
    """What open_clip's training writes as `epoch_N.pt`."""
    return {"epoch": 5, "name": name, "state_dict": prefixed(prefix, weights), "optimizer": OPTIMIZER}


CLIPS: dict[str, Callable[[State], dict]] = {
    "epoch_N": open_clip_checkpoint,
    "compiled": partial(open_clip_checkpoint, prefix="module._orig_mod."),
    "Lightning": lambda w: {"state_dict": prefixed("clip.", w), "global_step": 3},
    "entry in an entry": lambda w: {"checkpoint": {"model": OrderedDict(w)}, "scaler": {"scale": 1.0}},
}


@torch.no_grad()
def assert_computes(model: nn.Module, reference: nn.Module) -> None:
    """Both towers give what open_clip's give."""
    found = model(TEXTS, PIXELS)
    for ours, theirs in zip(
        (found.image_embeds, found.text_embeds, found.logits_per_image), open_clip_outputs(reference), strict=True
    ):
        assert_equals_reference(ours, theirs)


@pytest.mark.parametrize("is_custom", [False, True])
@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_checkpoint_converts_under_both_names_of_the_text_tower(name: str, is_custom: bool, tmp_path: Path):
    reference = clip_model(quick_gelu=False)
    weights = dict(reference.state_dict())
    if is_custom:
        weights = open_clip.model.convert_to_custom_text_state_dict(weights)
        assert "text.token_embedding.weight" in weights
    assert_computes(load(saved(tmp_path, CLIPS[name](weights))), reference)


def test_a_custom_text_tower_goes_back_bit_for_bit(tmp_path: Path):
    weights = open_clip.model.convert_to_custom_text_state_dict(dict(clip_model(quick_gelu=False).state_dict()))
    torch.save(weights, tmp_path / "clip.pt")
    assert main(["convert", str(tmp_path / "clip.pt"), str(tmp_path / "ours"), "--verify"]) == 0
    export_reference(tmp_path / "ours", tmp_path / "back.pt", "open-clip")
    back = torch.load(tmp_path / "back.pt")
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in weights.items())


def test_the_runs_name_tells_quickgelu(tmp_path: Path):
    reference = clip_model(quick_gelu=True)
    content = open_clip_checkpoint(reference.state_dict(), name="2024_01_01-model_ViT-S-16-quickgelu-lr_0.001")
    assert_computes(load(saved(tmp_path, content)), reference)


def test_an_unpublished_width_gets_heads_of_64_channels_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    model = load(saved(tmp_path, state(embed_dim=128, num_heads=2)))
    assert model.config.num_attention_heads == 2
    assert "no published model is 128 wide: assumed heads of 64 channels, num_attention_heads=2" in caplog.text
