"""From what a user names, a file, a folder or a Hub repository, to a weight file and what lies beside it."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

# What folders and repositories call their weights, the safer formats first, and the settings that belong to each.
WEIGHT_FILES = {
    "model.safetensors": "config.json",
    "model.safetensors.index.json": "config.json",
    "open_clip_model.safetensors": "open_clip_config.json",
    "open_clip_pytorch_model.bin": "open_clip_config.json",
    "pytorch_model.bin": "config.json",
}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
TEXT_FILES = ["*.json", "*.txt"]


class Located(NamedTuple):
    """A weight file and its surroundings.

    Args:
        weights: The file.
        settings: The configuration that lies beside it, empty for a file alone.
        folder: The folder whose other files belong to it; `None` for a file alone.
        name: The file's or the repository's, which may tell what weights don't.
    """

    weights: Path
    settings: dict[str, Any]
    folder: Path | None
    name: str


def locate(source: str | Path, layout: str | None = None) -> Located:
    """Finds the weights that a user means; those of a Hub repository are downloaded.

    Args:
        source: File, folder or Hub name.
        layout: The layout wanted, where a repository has its weights in several.

    Raises:
        ValueError: If there is nothing of that name, or no weight file in it.
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
    """A weight file in a folder of its own, with the settings there."""
    settings = weights.parent / WEIGHT_FILES.get(weights.name, "config.json")
    try:
        content = json.loads(settings.read_text()) if settings.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{settings} is no JSON: {error}") from error
    return Located(weights, content, weights.parent, name)


def weights_in(folder: Path, wanted: list[str]) -> Path:
    """The weight file of a folder."""
    for file in wanted:
        if (folder / file).is_file():
            return folder / file
    others = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise ValueError(f"{folder} has no weight file of a known name: name the file itself (there: {found})")
    return others[0]


def download(name: str, wanted: list[str]) -> Path:
    """The weight file of a Hub repository, with its texts beside it, from the cache where it is."""
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
    """The files that an index names."""
    if not path.name.endswith(".index.json"):
        return []
    return sorted(set(json.loads(path.read_text())["weight_map"].values()))
