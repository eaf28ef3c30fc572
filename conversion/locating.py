"""Finds the weight file and the files next to it for a file, a folder or a Hub repository."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .pickles import CONSOLIDATE

# Names of weight files in folders and repositories, in order of preference, and the settings file of each.
WEIGHT_FILES = {
    "model.safetensors": "config.json",
    "model.safetensors.index.json": "config.json",
    "open_clip_model.safetensors": "open_clip_config.json",
    "open_clip_pytorch_model.bin": "open_clip_config.json",
    "pytorch_model.bin": "config.json",
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt", ".pth.tar")
TEXT_FILES = ["*.json", "*.txt"]


class Located(NamedTuple):
    """A weight file and the files next to it.

    Args:
        weights: Path of the weight file.
        settings: Content of the configuration file next to it; empty for a single file.
        folder: Folder whose other files belong to the weights; `None` for a single file.
        name: Name of the file, folder or repository, which may identify what the weights don't.
    """

    weights: Path
    settings: dict[str, Any]
    folder: Path | None
    name: str


def locate(source: str | Path, layout: str | None = None) -> Located:
    """Finds the weights of a source; downloads those of a Hub repository.

    Args:
        source: File, folder or Hub name.
        layout: Preferred layout if the source has weights in several.

    Raises:
        ValueError: If the source does not exist or has no weight file.
    """
    path = Path(source)
    if path.is_file():
        if path.name in WEIGHT_FILES:
            return located(path, path.parent.resolve().name)
        return Located(path, {}, None, path.stem)
    wanted = sorted(WEIGHT_FILES, key=lambda file: layout == "open-clip" and not file.startswith("open_clip"))
    if path.is_dir():
        return located(weights_in(path, wanted), path.resolve().name)
    return located(download(str(source), wanted), str(source).rpartition("/")[2])


def located(weights: Path, name: str) -> Located:
    """A weight file together with its folder and the settings in it."""
    settings = weights.parent / WEIGHT_FILES.get(weights.name, "config.json")
    try:
        content = json.loads(settings.read_text()) if settings.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{settings} is no JSON: {error}") from error
    return Located(weights, content, weights.parent, name)


def weights_in(folder: Path, wanted: list[str]) -> Path:
    """Finds the weight file of a folder: the first of the known names, else the only file with a weight suffix."""
    for file in wanted:
        if (folder / file).is_file():
            return folder / file
    files = sorted(folder.iterdir())
    if any(path.suffix == ".distcp" for path in files):
        raise ValueError(f"{folder} holds the shards of distributed weights: {CONSOLIDATE}")
    others = [path for path in files if path.name.endswith(SUFFIXES)]
    if len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise ValueError(f"{folder} has no weight file of a known name: name the file itself (there: {found})")
    return others[0]


def download(name: str, wanted: list[str]) -> Path:
    """Downloads the weight file and the text files of a Hub repository, unless they are cached."""
    problem: Exception | None = None
    try:
        snapshot_download(name, allow_patterns=TEXT_FILES)
        for file in wanted:
            try:
                path = Path(hf_hub_download(name, file))
            except (EntryNotFoundError, LocalEntryNotFoundError) as error:
                problem = error
                continue
            for part in parts_of(path):
                hf_hub_download(name, part)
            return path
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        problem = error
    reason = " ".join(str(problem).split())
    raise ValueError(f"{name} is no file, no folder, and no Hub repository with weights of a known name: {reason}")


def parts_of(path: Path) -> list[str]:
    """Names of the files that an index lists; empty if `path` is not an index."""
    if not path.name.endswith(".index.json"):
        return []
    return sorted(set(json.loads(path.read_text())["weight_map"].values()))
