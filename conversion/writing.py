"""Writing weight files tensor by tensor, so that one rule's tensors are in memory at a time where a format allows."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

# The names that the format has for types: https://github.com/huggingface/safetensors#format
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

# In the header of converted weights: what to write on the way back.
RECORD = "reference"

NamedTensors = Iterable[tuple[str, Tensor]]


def write_safetensors(path: Path, planned: dict[str, Tensor], tensors: NamedTensors, metadata: dict[str, str]) -> None:
    """Writes a safetensors file in the order in which tensors come.

    The library's own writer wants all of them in memory at once.

    Args:
        path: File to write.
        planned: Every tensor's shape and type, on any device.
        tensors: The tensors, in any order.
        metadata: Texts for the file's header.
    """
    offsets, end, header = {}, 0, {"__metadata__": metadata} if metadata else {}
    # Wide types first keeps all of them aligned.
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
    """A tensor's numbers as they lie in memory."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def write_torch(path: Path, tensors: NamedTensors, root: str, is_nested: bool) -> None:
    """Writes a `.pth`, with every tensor on a storage of its own.

    Args:
        path: File to write.
        tensors: The tensors.
        root: What stands in front of every name: up to its first dot the entry that holds them; empty for none.
        is_nested: Whether the first part of each name is an entry of its own.
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
    """The tensor itself where its storage holds nothing else, or a copy."""
    is_whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if is_whole and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)


def write_numpy(path: Path, tensors: NamedTensors, root: str) -> None:
    """Writes an .npz as NumPy's `savez` does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, tensor in tensors:
            with archive.open(f"{root}{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor.contiguous().numpy(), allow_pickle=False)


def in_turn(steps: Iterable, read, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """Carries out steps one after another, each tensor cast where it is of numbers with a point."""
    for step in steps:
        for name, tensor in zip(step.outputs, step.run(*map(read, step.inputs)), strict=True):
            yield name, cast(tensor, dtype)


def cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """A tensor of numbers with a point in another type, where one is asked for; any other as it is."""
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def progress_of(tensors: NamedTensors, planned: dict[str, Tensor], is_shown: bool) -> Iterator[tuple[str, Tensor]]:
    """The same tensors, with a bar in bytes."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in planned.values())
    with tqdm(total=total, unit="B", unit_scale=True, disable=not is_shown) as bar:
        for name, tensor in tensors:
            yield name, tensor
            bar.update(tensor.numel() * tensor.element_size())
