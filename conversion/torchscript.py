"""Reads the tensors of a TorchScript archive without running its code.

The archive is a zip whose pickle builds modules from classes in the archive's own source. The unpickler replaces each
class with a plain container of attributes. Besides it, an allowlist admits tensors, storages and plain containers.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Maximum size of the pickle in bytes. It holds the module tree and tensor names; a CLIP's has less than 1 MB.
LARGEST_PICKLE = 64 * 2**20


class Module:
    """A module of the archive: only the attributes that the pickle sets, none of the code."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class StorageType:
    """Replaces torch's typed storage classes; holds the dtype."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """Builds a tensor as a view of its storage; torch raises if the view exceeds the storage."""
    return storage.as_strided(size, stride, offset)


def rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    """Returns a parameter's tensor."""
    return data


def untyped(values: Any, *_: Any) -> Any:
    """Returns a typed container of TorchScript as a plain one."""
    return values


class ArchiveUnpickler(pickle.Unpickler):
    """Unpickles tensors, containers, and `Module` in place of the archive's classes; rejects all else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return Module
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return rebuild_tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return rebuild_parameter
        if module == "torch" and name in STORAGES:
            return StorageType(STORAGES[name])
        if module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"):
            return untyped
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it holds code ({module}.{name}), which is never run")

    def persistent_load(self, key: tuple) -> Tensor:
        _, storage_type, name, _, _ = key
        content = bytearray(self.archive.read(f"{self.folder}/data/{name}"))
        return torch.frombuffer(content, dtype=storage_type.dtype) if content else torch.empty(0)


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name.

    Raises:
        pickle.UnpicklingError: If the pickle is too large, names code other than its modules, or holds no module.
    """
    with zipfile.ZipFile(path) as archive:
        (member,) = [member for member in archive.infolist() if member.filename.endswith("/data.pkl")]
        if member.file_size > LARGEST_PICKLE:
            raise pickle.UnpicklingError(f"its pickle has {member.file_size} bytes")
        return dict(tensors_of(ArchiveUnpickler(archive, member.filename.removesuffix("/data.pkl")).load(), ""))


def tensors_of(module: Module, prefix: str):
    """Yields names and tensors of a module and its submodules."""
    if not isinstance(module, Module) or not isinstance(getattr(module, "attributes", None), dict):
        raise pickle.UnpicklingError("it holds no module")
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, Module):
            yield from tensors_of(value, f"{prefix}{name}.")
