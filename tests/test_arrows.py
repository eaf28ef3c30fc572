"""Imports between the package's rooms run one way, and argparse stays in the commands."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What each folder, or file beside the folders, may import of the package.
ALLOWED = {
    "models": set(),
    "version": set(),
    "names": set(),
    "output": set(),
    "config_overrides": set(),
    "hub": {"names"},
    "data": set(),
    "options": {"output"},
    "inference": {"data", "output"},
    "explain": {"inference", "data", "models", "names", "output"},
    "evaluation": {"explain", "inference", "data", "names", "options", "output"},
    "training": {
        "evaluation", "explain", "inference", "data", "models", "hub", "options", "output", "config_overrides"
    },
    "conversion": {"__init__", "inference", "models", "output", "config_overrides"},
    "commands": {
        "training", "evaluation", "explain", "inference", "data", "conversion", "models", "options", "output",
        "config_overrides", "names",
    },
    "cli": {"commands", "names", "version"},
    "registration": set(),
    "__init__": {"registration", "version"},
    "__main__": {"cli"},
}  # fmt: skip
FILES = sorted([*(ROOT / "hf_vit_suite").rglob("*.py"), *(ROOT / "conversion").rglob("*.py")])


def module_of(path: Path) -> list[str]:
    """The dotted name of a file within the package, as parts."""
    relative = path.relative_to(ROOT)
    return list(relative.parts if relative.parts[0] == "conversion" else relative.parts[1:])


def imported(path: Path) -> Iterator[str]:
    """The rooms of the package that a file imports, wherever in it the import is; and other top-level packages."""
    parts = module_of(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            names = [".".join(["hf_vit_suite", *base, *filter(None, [node.module])])]
            if node.module is None:
                names = [f"{names[0]}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            yield rest.partition(".")[0] or "__init__" if package == "hf_vit_suite" else package


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path: Path):
    room = module_of(path)[0].removesuffix(".py")
    if path.name == "__main__.py":  # the command, started by `python -m`
        room = "__main__"
    found = set(imported(path)) & ALLOWED.keys() - {room}
    assert found <= ALLOWED[room]
    if room not in ("commands", "cli"):
        assert "ArgumentParser" not in path.read_text()


def test_arrows_have_no_cycle():
    def reached(room: str, path: tuple[str, ...] = ()) -> None:
        assert room not in path, " -> ".join((*path, room))
        for other in ALLOWED[room]:
            reached(other, (*path, room))

    for room in ALLOWED:
        reached(room)
