"""Damaged and hostile files: one clear line, exit code 1, no code run, nothing left behind."""

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_vit_suite.conversion import convert
from published import google_arrays, script, vision_transformer
from safetensors.torch import save_file
from torch import nn

from hf_vit_suite.cli import main


class Attack:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def state() -> dict[str, torch.Tensor]:
    """Weights of a tiny timm model."""
    return dict(vision_transformer().state_dict())


def pickle_with_code(folder: Path) -> Path:
    """A `.pth` whose reading would run code."""
    torch.save(state() | {"extra": Attack(folder / "was-run")}, folder / "code.pth")
    return folder / "code.pth"


def bare_pickle_with_code(folder: Path) -> Path:
    """The same without torch's archive around."""
    (folder / "code.pth").write_bytes(pickle.dumps(Attack(folder / "was-run")))
    return folder / "code.pth"


def script_with_code(folder: Path) -> Path:
    """A TorchScript archive whose pickle names a function."""
    with zipfile.ZipFile(folder / "code.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack(folder / "was-run"), protocol=2))
        archive.writestr("archive/constants.pkl", b"")
    return folder / "code.pt"


def truncated(folder: Path, suffix: str) -> Path:
    """A file whose second half is missing."""
    path = folder / f"half{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    elif suffix == ".npz":
        np.savez(path, **google_arrays(vision_transformer()))
    else:
        torch.save(state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def bomb(folder: Path) -> Path:
    """An archive that would unpack to hundreds of times its size."""
    np.savez_compressed(folder / "bomb.npz", **{"embedding/kernel": np.zeros((2000, 2000), np.float32)})
    return folder / "bomb.npz"


def objects(folder: Path) -> Path:
    """An .npz with an array of Python objects."""
    arrays = google_arrays(vision_transformer()) | {"cls": np.array([Attack(folder / "was-run")], dtype=object)}
    np.savez(folder / "objects.npz", **arrays)
    return folder / "objects.npz"


def false_array(folder: Path) -> Path:
    """An .npz whose array claims more numbers than it holds."""
    np.savez(folder / "false.npz", cls=np.zeros((1, 1, 99999), np.float32))
    content = (folder / "false.npz").read_bytes()
    with zipfile.ZipFile(folder / "false.npz") as archive:
        member = archive.read("cls.npy").replace(b"(1, 1, 99999)", b"(9, 9, 99999)")
    with zipfile.ZipFile(folder / "false.npz", "w") as archive:
        archive.writestr("cls.npy", member)
    assert content
    return folder / "false.npz"


def false_header(folder: Path) -> Path:
    """A safetensors file whose header reaches beyond its end."""
    header = {"cls_token": {"dtype": "F32", "shape": [1, 1, 192], "data_offsets": [0, 10**9]}}
    text = json.dumps(header).encode()
    (folder / "false.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 768)
    return folder / "false.safetensors"


def false_strides(folder: Path) -> Path:
    """A tensor that repeats one number a billion times."""
    torch.save(state() | {"head.weight": torch.zeros(1).expand(40000, 25000)}, folder / "strides.pth")
    return folder / "strides.pth"


def another_architecture(folder: Path) -> Path:
    """Weights of a convolutional network."""
    save_file({f"conv.{name}": t for name, t in nn.Conv2d(3, 4, 3).state_dict().items()}, folder / "net.safetensors")
    return folder / "net.safetensors"


def unknown_tensor(folder: Path) -> Path:
    """A vision transformer with something beside."""
    save_file(state() | {"blocks.0.attn.stranger": torch.zeros(3)}, folder / "strange.safetensors")
    return folder / "strange.safetensors"


def missing_tensor(folder: Path) -> Path:
    """A vision transformer without one of its tensors."""
    tensors = state()
    del tensors["blocks.1.mlp.fc2.bias"]
    save_file(tensors, folder / "missing.safetensors")
    return folder / "missing.safetensors"


def missing_sizes(folder: Path) -> Path:
    """A vision transformer without a tensor that tells the width of its MLPs."""
    tensors = state()
    del tensors["blocks.0.mlp.fc2.weight"]
    save_file(tensors, folder / "sizes.safetensors")
    return folder / "sizes.safetensors"


def another_rank(folder: Path) -> Path:
    """A vision transformer whose patch projection is a matrix."""
    save_file(state() | {"patch_embed.proj.weight": torch.zeros(192, 768)}, folder / "rank.safetensors")
    return folder / "rank.safetensors"


def wrong_shape(folder: Path) -> Path:
    """A vision transformer with a tensor of another size."""
    save_file(state() | {"norm.weight": torch.zeros(191)}, folder / "shape.safetensors")
    return folder / "shape.safetensors"


def no_weights(folder: Path) -> Path:
    """A text."""
    (folder / "notes.pth").write_text("weights are elsewhere")
    return folder / "notes.pth"


HOSTILE = {
    "pickle with code": (pickle_with_code, "code"),
    "bare pickle with code": (bare_pickle_with_code, "code"),
    "TorchScript with code": (script_with_code, r"holds code \(\S+\), which is never run"),
    "half a safetensors": (lambda folder: truncated(folder, ".safetensors"), "no whole safetensors file"),
    "half a pth": (lambda folder: truncated(folder, ".pth"), "cut off or damaged"),
    "half an npz": (lambda folder: truncated(folder, ".npz"), "cut off or damaged"),
    "zip bomb": (bomb, "would unpack to .* times its size"),
    "array of objects": (objects, "holds Python objects"),
    "array that lies": (false_array, "claims more numbers than it holds"),
    "safetensors that lies": (false_header, "no whole safetensors file"),
    "strides that lie": (false_strides, "claims more numbers for head.weight than it holds"),
    "another architecture": (another_architecture, "no architecture that any layout knows"),
    "unknown tensor": (unknown_tensor, "1 tensors have no place: blocks.0.attn.stranger"),
    "missing tensor": (missing_tensor, r"lacks 1 tensors .*blocks.1.mlp.fc2.bias"),
    "missing sizes": (missing_sizes, r"lacks blocks.0.mlp.fc2.weight, from which its architecture is read"),
    "another rank": (another_rank, r"patch_embed.proj.weight must have 4 dimensions, got \[192, 768\]"),
    "wrong shape": (wrong_shape, r"vit.norm.weight \[191\] in place of \[192\]"),
    "no weights": (no_weights, "is no weight file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_file_gets_one_line_and_leaves_nothing(name: str, tmp_path: Path, capfd: pytest.CaptureFixture):
    make, message = HOSTILE[name]
    source = make(tmp_path)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    error = capfd.readouterr().err.strip()
    assert error.startswith(f"error: {source}")
    assert len(error.splitlines()) == 1
    with pytest.raises(ValueError, match=message):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_archive_whose_code_is_broken_is_read_for_its_tensors(tmp_path: Path):
    weights = state()
    whole, broken = script(tmp_path / "whole.pt", weights), tmp_path / "broken.pt"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(broken, "w") as new:
        for member in old.infolist():
            content = old.read(member)
            new.writestr(member, b"this is no code" if "/code/" in member.filename else content)
    model = convert(broken, tmp_path / "out", layout="timm")
    assert torch.equal(model.classifier.weight, weights["head.weight"])


def test_an_unknown_width_asks_for_the_number_of_heads(tmp_path: Path):
    save_file(dict(vision_transformer(embed_dim=48).state_dict()), tmp_path / "narrow.safetensors")
    with pytest.raises(ValueError, match=r"no published model is 48 wide.*--config_overrides num_attention_heads=N"):
        convert(tmp_path / "narrow.safetensors", tmp_path / "out")
    model = convert(tmp_path / "narrow.safetensors", tmp_path / "out", config_overrides={"num_attention_heads": 3})
    assert model.config.num_attention_heads == 3


def test_a_preset_of_another_size_is_refused(tmp_path: Path):
    save_file(state(), tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=r"tensors of other shapes|lacks"):
        convert(tmp_path / "tiny.safetensors", tmp_path / "out", preset="vit_small_patch16_224")


@pytest.mark.parametrize("layout", ["google-jax", "dinov2", "transformers"])
def test_a_layout_that_is_not_the_files_is_refused_by_name(layout: str, tmp_path: Path):
    save_file(state(), tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=f"is not laid out as {layout}"):
        convert(tmp_path / "tiny.safetensors", tmp_path / "out", layout=layout)


def test_a_timm_model_that_pools_otherwise_is_refused(tmp_path: Path):
    save_file(vision_transformer(global_pool="avg", fc_norm=False).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "vit", "global_pool": "avg"}')
    with pytest.raises(ValueError, match="normalises tokens before it takes their mean"):
        convert(tmp_path, tmp_path / "out")
