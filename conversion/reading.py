"""Opening weight files of any kind, safely: no code in a file is ever run, and no file makes more memory than it has.

Formats: safetensors (one file or several with an index), torch's zip and older pickles, TorchScript archives and
NumPy's .npz. Tensors are read one at a time, when they are asked for.
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

# Compressed files may hold long runs of zeros (the empty heads of published files do), bombs a thousandfold.
LARGEST_EXPANSION = 20
# Values beside the weights that training leaves in a checkpoint.
BOOKKEEPING = {"arch", "args", "best_acc", "config", "epoch", "fp16_scaler", "iteration", "loss_scaler"}
BOOKKEEPING |= {"lr_scheduler", "max_accuracy", "metric", "name", "optimizer", "scaler", "scheduler", "version"}
ROOTS = ("model", "state_dict")


class WeightFileError(ValueError):
    """A file that can't be read as weights; the message says which and why."""


class Source(ABC):
    """Tensors of a file by name.

    Args:
        path: The file.
    """

    root: str = ""  # what stands in front of every name in the file
    kind: str = "torch"

    def __init__(self, path: Path):
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """Names of all tensors, without `root`."""

    @abstractmethod
    def describe(self, name: str) -> Tensor:
        """A tensor's shape and type, on the meta device."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """A tensor; later calls may read it again."""

    def metadata(self) -> dict[str, str]:
        """What the file tells beside its tensors."""
        return {}


class SafetensorsSource(Source):
    """safetensors, in one file or several."""

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
        # Opened anew for each tensor, so that what was read does not stay mapped.
        with safe_open(self.files[name], framework="pt") as opened:
            return opened.get_tensor(name)

    def metadata(self) -> dict[str, str]:
        with safe_open(next(iter(self.files.values()), self.path), framework="pt") as opened:
            return opened.metadata() or {}


class TorchSource(Source):
    """Tensors of a `.pth`, already unpickled (a zip's stay mapped until they are read)."""

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
        """Names without the `module.` that DistributedDataParallel puts in front of all."""
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
        prefix = "opt/target/"  # how Flax's optimisers saved their model
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
    """Opens a weight file by what is in it, whatever its suffix.

    Raises:
        WeightFileError: If it is damaged, holds code, or is of no known format.
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
    """safetensors in several files, by their index."""
    try:
        names = json.loads(path.read_text())["weight_map"]
        files = {name: path.parent / file for name, file in names.items()}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightFileError(f"{path} is no index of safetensors files: {error}") from error
    if outside := [file for file in names.values() if Path(file).name != file]:
        raise WeightFileError(f"{path} leads out of its folder: {outside[0]}")
    return SafetensorsSource(path, files)


def open_zip(path: Path) -> Source:
    """The three formats that are zip archives."""
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
    """The tensors of a TorchScript archive."""
    try:
        return read_torchscript(path)
    except Exception as error:  # a pickle may go wrong in any way
        raise WeightFileError(f"{path} is no TorchScript archive of plain weights: {error}") from error


def unpickled(path: Path, mmap: bool) -> Any:
    """What torch's own reader lets through: tensors, plain values, and the bags of options that DINO's files hold."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        if found := re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)\D*?)\s+([\w.]+)", str(error)):
            reason = f"holds code ({found.group(1)}), which is never run"
        else:
            reason = "is cut off, damaged, or holds code, which is never run"
        raise WeightFileError(f"{path} {reason}: get it as safetensors from its publisher") from error
    except Exception as error:  # torch's reader raises of all kinds at damaged files
        raise WeightFileError(f"{path} is cut off or damaged: {str(error).splitlines()[0]}") from error
