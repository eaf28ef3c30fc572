"""Reads weight files safely: never runs code from a file, and rejects tensors that claim more data than they have.

Formats: safetensors (one file, or several with an index), torch's zip and legacy pickles, TorchScript archives, and
NumPy's .npz. Sources read tensors one at a time, except TorchScript and legacy pickles, which load at once.
"""

import argparse
import json
import pickle
import re
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .torchscript import read_torchscript
from .writing import SAFETENSORS_TYPES

TORCH_TYPES = {name: dtype for dtype, name in SAFETENSORS_TYPES.items()}

# Maximum ratio of uncompressed to compressed size. Published files with all-zero heads compress well; zip bombs
# expand a thousandfold.
LARGEST_EXPANSION = 20
# Entries of training checkpoints that are not weights; they are ignored.
BOOKKEEPING = {"arch", "args", "best_acc", "config", "epoch", "fp16_scaler", "iteration", "loss_scaler"}
BOOKKEEPING |= {"lr_scheduler", "max_accuracy", "metric", "name", "optimizer", "scaler", "scheduler", "version"}
ROOTS = ("model", "state_dict")


class WeightFileError(ValueError):
    """Raised if a file can't be read as weights; the message names the file and the cause."""


class Source(ABC):
    """Access to a file's tensors by name.

    Args:
        path: Path of the file.
    """

    root: str = ""  # prefix of every name in the file
    kind: str = "torch"

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all tensors, without `root`."""

    @abstractmethod
    def describe(self, name: str) -> Tensor:
        """A tensor on the meta device, which has shape and dtype only."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Reads a tensor, each time it is called."""

    def metadata(self) -> dict[str, str]:
        """Metadata of the file; empty if the format has none."""
        return {}


class SafetensorsSource(Source):
    """safetensors in one file, or in several with an index."""

    kind = "safetensors"

    def __init__(self, path: Path, files: Mapping[str, Path] | None = None):
        super().__init__(path)
        self.meta: dict[str, Tensor] = {}
        self.files: dict[str, Path] = {}
        for file in dict.fromkeys(files.values()) if files else [path]:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                        part = opened.get_slice(name)
                        dtype = TORCH_TYPES[part.get_dtype()]
                        self.meta[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
                        self.files[name] = file
            except KeyError as error:
                raise WeightFileError(f"{file} holds numbers of type {error}, which no layout has") from error
            except (SafetensorError, OSError) as error:
                raise WeightFileError(f"{file} is no whole safetensors file: {error}") from error
        if files and (missing := set(files) - set(self.files)):
            raise WeightFileError(f"{path} names tensors that its files lack: {', '.join(sorted(missing)[:5])}")

    def names(self) -> list[str]:
        return list(self.meta)

    def describe(self, name: str) -> Tensor:
        return self.meta[name]

    def read(self, name: str) -> Tensor:
        # Reopens the file for each tensor, so that tensors already read do not stay mapped.
        with safe_open(self.files[name], framework="pt") as opened:
            return opened.get_tensor(name)

    def metadata(self) -> dict[str, str]:
        with safe_open(next(iter(self.files.values()), self.path), framework="pt") as opened:
            return opened.metadata() or {}


class TorchSource(Source):
    """Tensors of an unpickled `.pth`; those of a zip are memory-mapped."""

    def __init__(self, path: Path, content: Any):
        super().__init__(path)
        self.tensors = self.find_tensors(content)
        for name, tensor in self.tensors.items():
            if tensor.is_sparse or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise WeightFileError(f"{path} claims more numbers for {name} than it holds")

    def find_tensors(self, content: Any) -> dict[str, Tensor]:
        if not isinstance(content, dict):
            raise WeightFileError(f"{self.path} holds a {type(content).__name__}, not tensors by name")
        for root in ROOTS:
            if isinstance(content.get(root), dict):
                self.refuse_unknown({name for name in content if name != root})
                self.root = root + "."
                return self.without_module(self.flattened(content[root]))
        return self.without_module(self.flattened(content))

    def without_module(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Removes DistributedDataParallel's prefix `module.` if all names have it."""
        prefix = "module."
        if not tensors or not all(name.startswith(prefix) for name in tensors):
            return tensors
        self.root += prefix
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    def flattened(self, content: dict) -> dict[str, Tensor]:
        tensors, others = {}, set()
        for name, value in content.items():
            if isinstance(name, str) and isinstance(value, Tensor):
                tensors[name] = value
            elif isinstance(value, dict) and value and all(isinstance(part, Tensor) for part in value.values()):
                tensors.update({f"{name}.{part}": tensor for part, tensor in value.items()})
            else:
                others.add(name)
        self.refuse_unknown(others)
        return tensors

    def refuse_unknown(self, names: set[str]) -> None:
        if unknown := sorted(str(name) for name in names - BOOKKEEPING):
            raise WeightFileError(f"{self.path} holds what is no tensor and not known: {', '.join(unknown[:12])}")

    def names(self) -> list[str]:
        return list(self.tensors)

    def describe(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    def read(self, name: str) -> Tensor:
        return self.tensors[name].detach()


class NumpySource(Source):
    """Arrays of an .npz."""

    kind = "numpy"

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self.arrays = np.load(path, allow_pickle=False)
            self.meta = {name: self.describe_array(name) for name in self.arrays.files}
        except (ValueError, TypeError, OSError, zipfile.BadZipFile, EOFError) as error:
            raise WeightFileError(f"{path} is no .npz of plain arrays: {error}") from error
        prefix = "opt/target/"  # prefix of models that Flax's optimisers saved
        if self.meta and all(name.startswith(prefix) for name in self.meta):
            self.root = prefix
            self.meta = {name.removeprefix(prefix): value for name, value in self.meta.items()}

    def describe_array(self, name: str) -> Tensor:
        member = f"{name}.npy"
        with self.arrays.zip.open(member) as opened:
            version = np.lib.format.read_magic(opened)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(opened)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects")
        if dtype.itemsize * int(np.prod(shape, dtype=object)) > self.arrays.zip.getinfo(member).file_size:
            raise ValueError(f"{name} claims more numbers than it holds")
        return torch.empty(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, device="meta")

    def names(self) -> list[str]:
        return list(self.meta)

    def describe(self, name: str) -> Tensor:
        return self.meta[name]

    def read(self, name: str) -> Tensor:
        try:
            return torch.from_numpy(self.arrays[self.root + name])
        except (ValueError, zipfile.BadZipFile) as error:
            raise WeightFileError(f"{self.path} is damaged at {name}: {error}") from error


def open_weights(path: Path) -> Source:
    """Opens a weight file; its content determines the format, not its suffix.

    Raises:
        WeightFileError: If the file is damaged, contains code, or has an unknown format.
    """
    if path.name.endswith(".index.json"):
        return open_sharded(path)
    try:
        with path.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise WeightFileError(f"{path} can't be read: {error.strerror}") from error
    if start[:2] == b"PK":
        return open_zip(path)
    if start[8:9] == b"{":
        return SafetensorsSource(path)
    if start[:1] == b"\x80":
        return TorchSource(path, unpickled(path, mmap=False))
    raise WeightFileError(
        f"{path} is no weight file: expected safetensors, torch's .pth, a TorchScript archive or .npz"
    )


def open_sharded(path: Path) -> Source:
    """Opens the safetensors files that an index names; they must be in the index's folder."""
    try:
        names = json.loads(path.read_text())["weight_map"]
        files = {name: path.parent / file for name, file in names.items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightFileError(f"{path} is no index of safetensors files: {error}") from error
    if outside := [file for file in names.values() if Path(file).name != file]:
        raise WeightFileError(f"{path} leads out of its folder: {outside[0]}")
    return SafetensorsSource(path, files)


def open_zip(path: Path) -> Source:
    """Opens a zip archive: torch's .pth, TorchScript or .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, struct.error) as error:
        raise WeightFileError(f"{path} is cut off or damaged: {error}") from error
    expanded = sum(member.file_size for member in members)
    if expanded > LARGEST_EXPANSION * path.stat().st_size:
        raise WeightFileError(f"{path} would unpack to {expanded / path.stat().st_size:.0f} times its size")
    names = [member.filename for member in members]
    if any(name.endswith("/data.pkl") for name in names):
        is_script = any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in names)
        content = read_script(path) if is_script else unpickled(path, mmap=True)
        return TorchSource(path, content)
    if names and all(name.endswith(".npy") for name in names):
        return NumpySource(path)
    raise WeightFileError(f"{path} is a zip archive without weights")


def read_script(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a TorchScript archive; any failure raises `WeightFileError`."""
    try:
        return read_torchscript(path)
    except Exception as error:  # unpickling may raise any exception
        raise WeightFileError(f"{path} is no TorchScript archive of plain weights: {error}") from error


def unpickled(path: Path, mmap: bool) -> Any:
    """Loads a pickle that holds only tensors, plain values, and the `argparse.Namespace` of DINO's files."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if found := re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)\D*?)\s+([\w.]+)", str(error)):
            reason = f"holds code ({found.group(1)}), which is never run"
        else:
            reason = "is cut off, damaged, or holds code, which is never run"
        raise WeightFileError(f"{path} {reason}: get it as safetensors from its publisher") from error
    except Exception as error:  # torch.load raises various exceptions for damaged files
        raise WeightFileError(f"{path} is cut off or damaged: {str(error).splitlines()[0]}") from error
