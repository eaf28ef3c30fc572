"""Writes weight files. safetensors and .npz are written tensor by tensor; .pth needs all tensors in memory."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

# Dtype names of the format: https://github.com/huggingface/safetensors#format
SAFETENSORS_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

# Metadata key of converted weights: records the layout and form for export.
RECORD = "reference"

NamedTensors = Iterable[tuple[str, Tensor]]


def write_safetensors(path: Path, planned: dict[str, Tensor], tensors: NamedTensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file tensor by tensor.

    The writer of the safetensors library needs all tensors in memory at once.

    Args:
        path: File to write.
        planned: Shape and dtype of every tensor by name, as tensors on any device.
        tensors: Names and tensors, in any order.
        metadata: Strings for the file's header.
    """
    offsets, end, header = {}, 0, {"__metadata__": metadata} if metadata else {}
    # Sorting dtypes by size, largest first, keeps every tensor aligned.
    for name in sorted(planned, key=lambda name: (-planned[name].element_size(), name)):
        tensor = planned[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": SAFETENSORS_TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        offsets[name], end = end, end + size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        start = opened.tell()
        opened.truncate(start + end)
        for name, tensor in tensors:
            opened.seek(start + offsets[name])
            opened.write(raw_bytes(tensor))


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's values as raw bytes in row-major order."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def write_torch(path: Path, tensors: NamedTensors, root: str, is_nested: bool) -> None:
    """Writes a `.pth`; copies tensors that are views of larger storages or not contiguous.

    Args:
        path: File to write.
        tensors: Names and tensors.
        root: Prefix of every name. The part before its first dot is the dictionary entry that holds all tensors;
            empty for no prefix and no such entry.
        is_nested: Whether the first part of each name is a dictionary entry that holds the rest.
    """
    content: dict = {}
    container, _, prefix = root.partition(".")
    for name, tensor in tensors:
        name = prefix + name
        entry, _, rest = name.partition(".")
        is_apart = is_nested and rest
        place = content.setdefault(entry, {}) if is_apart else content
        place[rest if is_apart else name] = owned(tensor)
    torch.save({container: content} if container else content, path)


def owned(tensor: Tensor) -> Tensor:
    """The tensor itself if it is contiguous and fills its storage, else a copy."""
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def write_numpy(path: Path, tensors: NamedTensors, root: str) -> None:
    """Writes an uncompressed .npz, as NumPy's `savez` does; prefixes every name with `root`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors:
            with archive.open(f"{root}{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor.contiguous().numpy(), allow_pickle=False)


def in_turn(steps: Iterable, read, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Runs steps one at a time and casts their floating-point outputs to `dtype`; `None` keeps each dtype."""
    for step in steps:
        for name, tensor in zip(step.outputs, step.run(*map(read, step.inputs)), strict=True):
            yield name, cast(tensor, dtype)


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Casts a floating-point tensor to `dtype`; returns other tensors unchanged, and all if `dtype` is `None`."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def progress_of(tensors: NamedTensors, planned: dict[str, Tensor], is_shown: bool) -> Iterator[tuple[str, Tensor]]:
    """Yields the same tensors and advances a progress bar in bytes."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in planned.values())
    with tqdm(total=total, unit="B", unit_scale=True, disable=not is_shown) as bar:
        for name, tensor in tensors:
            yield name, tensor
            bar.update(tensor.numel() * tensor.element_size())
