"""Reads pickles safely: torch's `weights_only` reader, with an allow-list of plain values that training scripts save.

No code from a file runs. A global outside the list is refused by name.
"""

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch

SAVE_AGAIN = "with the program that wrote it, save the weights alone: torch.save(model.state_dict(), 'weights.pth')"
CONSOLIDATE = (
    "gather the full weights where it was trained: FSDP's StateDictType.FULL_STATE_DICT, DeepSpeed's zero_to_fp32.py, "
    "or python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE"
)


class WeightFileError(ValueError):
    """Raised if a file can't be read as weights; the message names the file and the cause."""


class Ignored:
    """Stands for a value that conversion does not read, such as a NumPy scalar; its own class is never called."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def plain_dict(*_: Any) -> dict:
    """A dictionary in place of a defaultdict, since torch's reader fills only plain dictionaries."""
    return {}


def plain_list(*_: Any) -> list:
    """A list in place of a deque, since torch's reader fills only plain lists."""
    return []


# Globals that are read as `Ignored`: scalars and arrays under the module paths of NumPy 1 and 2, paths under
# those of Python before and since 3.13, dates, versions, and the configs of Hydra.
IGNORED = {
    "numpy": ("dtype", "ndarray"),
    "numpy.core.multiarray": ("scalar", "_reconstruct"),
    "numpy._core.multiarray": ("scalar", "_reconstruct"),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
    "torch.torch_version": ("TorchVersion",),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": (
        *("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode"),
        *("BytesNode", "PathNode", "EnumNode", "InterpolationResultNode"),
    ),
}
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    *(bool, int, float, str, bytes, tuple, list, dict, frozenset),
    (plain_dict, "collections.defaultdict"),
    (plain_list, "collections.deque"),
    *((Ignored, f"{module}.{name}") for module, names in IGNORED.items() for name in names),
]


def unpickled(path: Path, mmap: bool) -> Any:
    """Loads a pickle of tensors and plain values.

    Raises:
        WeightFileError: If the file is damaged or holds anything else; the message names it.
    """
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise WeightFileError(f"{path} {refusal(str(error))}") from error
    except Exception as error:  # torch.load raises various exceptions for damaged files
        raise WeightFileError(f"{path} is cut off or damaged: {(str(error).splitlines() or [''])[0]}") from error


def refusal(message: str) -> str:
    """Why torch's reader refused a pickle, and the remedy.

    Args:
        message: Message of torch's error.
    """
    found = re.search(r"GLOBAL ([\w.]+)", message)
    # Reading a DTensor needs an import and a process group, which torch's message states without the global's name.
    if "DTensor" in message or (found and found[1].startswith("torch.distributed.")):
        name = found[1] if found else "torch.distributed.tensor.DTensor"
        return f"holds one process's shard of distributed weights ({name}): {CONSOLIDATE}"
    if found:
        return f"holds code ({found[1]}), which is never run: {SAVE_AGAIN}"
    return f"is cut off, damaged, or holds code, which is never run: {SAVE_AGAIN}"
