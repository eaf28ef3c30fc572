"""Pickles of training programs: plain values are read without calling their classes, all else is refused by name."""

import argparse
import collections
import datetime
import fractions
import functools
import pathlib
import types
import uuid
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_vit_suite.conversion import load
from published import vision_transformer
from torch import Tensor, nn

HARMLESS: dict[str, Any] = {
    "float64": np.float64(71.5),
    "int64": np.int64(3),
    "float32 of an array": np.arange(3, dtype=np.float32)[1],
    "bool": np.bool_(True),
    "array": np.arange(3),
    "random state of NumPy": np.random.RandomState(0).get_state(),
    "namespace": argparse.Namespace(lr=0.1, out=Path("/x"), best=np.float64(1)),
    "simple namespace": types.SimpleNamespace(lr=0.1),
    "path": Path("/x/y"),
    "Windows path": pathlib.PureWindowsPath("c:/x"),
    "date": datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc),
    "duration": datetime.timedelta(hours=3),
    "UUID": uuid.UUID(int=3),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0]}),
    "defaultdict of dict": collections.defaultdict(dict, {"loss": {1: 2}}),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=3),
    "version": torch.__version__,
    "size": torch.Size([1, 2]),
    "type": float,
}


def state() -> dict[str, Tensor]:
    """Weights of a tiny timm model."""
    return dict(vision_transformer().state_dict())


@pytest.mark.parametrize("name", HARMLESS)
def test_plain_values_do_not_stop_a_file(name: str, tmp_path: Path):
    weights = state()
    torch.save({"model": weights, "extra": HARMLESS[name]}, tmp_path / "checkpoint.pth")
    assert torch.equal(load(tmp_path / "checkpoint.pth").classifier.weight, weights["head.weight"])


@pytest.mark.parametrize(("old", "new"), [(b"numpy._core", b"numpy.core"), (b"cpathlib\n", b"cpathlib._local\n")])
def test_module_paths_of_other_versions_are_read(old: bytes, new: bytes, tmp_path: Path):
    torch.save({"model": state(), "extra": [np.float64(1), np.arange(3), Path("/x")]}, tmp_path / "ours.pth")
    with zipfile.ZipFile(tmp_path / "ours.pth") as source, zipfile.ZipFile(tmp_path / "theirs.pth", "w") as target:
        for member in source.infolist():
            content = source.read(member)
            if member.filename.endswith("data.pkl"):
                assert old in content or new in content
                content = content.replace(old, new)
            target.writestr(member, content)
    assert load(tmp_path / "theirs.pth").config.num_labels == 5


def test_the_configs_of_hydra_are_read(tmp_path: Path):
    create = pytest.importorskip("omegaconf").OmegaConf.create
    config = create({"model": {"width": 192, "name": "${name}"}, "name": "vit", "lrs": [0.1, None]})
    torch.save({"state_dict": state(), "hyper_parameters": config}, tmp_path / "last.ckpt")
    assert load(tmp_path / "last.ckpt").config.num_labels == 5


class Recorded:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


class Meter:
    """A class of the training program."""


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "code": (lambda marker: {"model": state(), "extra": Recorded(marker)}, "io.open"),
    "a whole model": (
        lambda marker: {"model": vision_transformer()},
        "timm.models.vision_transformer.VisionTransformer",
    ),
    "a module alone": (lambda marker: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a class of its own": (lambda marker: {"model": state(), "meter": Meter()}, "test_pickles.Meter"),
    "a partial function": (
        lambda marker: {"model": state(), "schedule": functools.partial(print, "x")},
        "functools.partial",
    ),
    "a number of another kind": (
        lambda marker: {"model": state(), "f": fractions.Fraction(1, 3)},
        "fractions.Fraction",
    ),
    "an array of objects": (
        lambda marker: {"model": state(), "a": np.array([Recorded(marker)], dtype=object)},
        "io.open",
    ),
}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_the_way_out(name: str, is_zip: bool, tmp_path: Path):
    make, named = REFUSED[name]
    path, marker = tmp_path / "checkpoint.pth", tmp_path / "was-run"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(make(marker), path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ValueError, match="code") as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path} holds code ({named}), which is never run: ")
    assert "torch.save(model.state_dict(), " in message
    assert len(message.splitlines()) == 1
    assert not marker.exists()


class ShardedTensor:
    """Stands for torch's class, which only a process group can save."""


ShardedTensor.__module__ = "torch.distributed._shard.sharded_tensor.api"


def sharded_tensor(monkeypatch: pytest.MonkeyPatch) -> dict:
    """A file with torch's class of sharded tensors."""
    module = types.ModuleType(ShardedTensor.__module__)
    module.ShardedTensor = ShardedTensor
    monkeypatch.setitem(__import__("sys").modules, ShardedTensor.__module__, module)
    return {"model": {"teacher.backbone.cls_token": ShardedTensor()}}


SHARDS: dict[str, Callable[[], dict]] = {
    "flat parameters": lambda: {"model": {"teacher.backbone._flat_param": torch.ones(9), "iteration": 3}},
    "flat parameters in FSDP": lambda: {
        "_fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.flat_param_0": torch.ones(9)
    },
    "original names, flat": lambda: {"model": {name: tensor.flatten() for name, tensor in state().items()}},
    "another process's part": lambda: {"module": {name: torch.empty(0) for name in state()}},
}


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_says_what_it_is_and_how_to_consolidate(name: str, tmp_path: Path):
    torch.save(SHARDS[name](), tmp_path / "model.rank_1.pth")
    assert_names_shard(tmp_path / "model.rank_1.pth")


def test_torchs_sharded_tensors_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(sharded_tensor(monkeypatch), tmp_path / "model.rank_1.pth")
    assert_names_shard(tmp_path / "model.rank_1.pth")


def assert_names_shard(path: Path) -> None:
    """The error says in one line what the file is and how to consolidate it."""
    with pytest.raises(ValueError, match=r"one process's shard of .*FULL_STATE_DICT.*dcp_to_torch") as caught:
        load(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_of_distributed_checkpoints_says_how_to_consolidate(tmp_path: Path):
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"shards of distributed weights: .*dcp_to_torch"):
        load(tmp_path)
