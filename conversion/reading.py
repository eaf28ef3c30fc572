"""Reads weight files safely: never runs code from a file, and rejects tensors that claim more data than they have.

Formats: safetensors (one file, or several with an index), torch's zip and legacy pickles, TorchScript archives, and
NumPy's .npz. Sources read tensors one at a time, except TorchScript and legacy pickles, which load at once.
"""

import json
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

from .pickles import CONSOLIDATE, SAVE_AGAIN, WeightFileError, unpickled
from .torchscript import read_torchscript
from .writing import SAFETENSORS_TYPES

TORCH_TYPES = {name: dtype for dtype, name in SAFETENSORS_TYPES.items()}

# Maximum ratio of uncompressed to compressed size. Published files with all-zero heads compress well; zip bombs
# expand a thousandfold.
LARGEST_EXPANSION = 20
# Maximum depth of nested dictionaries; those of training checkpoints have fewer levels.
DEEPEST = 12


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

    def container(self, name: str) -> str:
        """The part of a name that consists of dictionary entries, such as `"state_dict."`; empty without any."""
        return ""

    def other_values(self) -> list[str]:
        """Names of the values that are no tensors."""
        return []

    def told_name(self) -> str:
        """The model's name that a training program stored; empty without one."""
        return ""


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
        if not isinstance(content, dict):
            raise WeightFileError(f"{path} holds a {type(content).__name__}, not tensors by name: {SAVE_AGAIN}")
        self.tensors: dict[str, Tensor] = {}
        self.containers: dict[str, str] = {}
        self.values: list[str] = []
        self.seen: set[int] = set()
        # open_clip stores the run's name, which contains the model's; timm stores `arch`, DeiT and MAE `args.model`.
        told = [content.get("name"), content.get("arch"), getattr(content.get("args"), "model", None)]
        self.model_name = " ".join(name for name in told if isinstance(name, str))
        self.collect(content, "", depth=0)

    def collect(self, content: dict, container: str, depth: int) -> None:
        """Collects the tensors of nested dictionaries under joined names, and the names of all other values.

        Reads a dictionary once, so that one that is stored under two names counts as one.
        """
        self.seen.add(id(content))
        for key, value in content.items():
            name = f"{container}{key}"
            if name in self.tensors:
                raise WeightFileError(f"{self.path} holds {name} twice, as an entry and as a prefix: rename one")
            if isinstance(value, Tensor):
                self.tensors[name], self.containers[name] = value, container
            elif isinstance(value, dict) and value and depth < DEEPEST:
                if id(value) not in self.seen:
                    self.collect(value, f"{name}.", depth + 1)
            else:
                self.values.append(name)

    def names(self) -> list[str]:
        return list(self.tensors)

    def container(self, name: str) -> str:
        return self.containers[name]

    def other_values(self) -> list[str]:
        return self.values

    def told_name(self) -> str:
        return self.model_name

    def describe(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        if type(tensor).__module__.startswith("torch.distributed."):
            raise WeightFileError(f"{self.path} holds one process's shard of distributed weights: {CONSOLIDATE}")
        is_dense = tensor.layout == torch.strided
        if not is_dense or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightFileError(f"{self.path} claims more numbers for {name} than it holds")
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
