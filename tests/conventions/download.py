"""Fetches transformers' common tests: the `tests` folder of the installed version's sdist on PyPI.

    python tests/conventions/download.py FOLDER

They are kept under FOLDER, so that a second call does nothing. The files are transformers' own and never committed.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


def tests_of_transformers(folder: Path) -> Path:
    """Where the tests of the installed version lie in the folder."""
    return folder / f"transformers-{transformers.__version__}" / "tests"


def download(folder: Path) -> None:
    """Unpacks the tests of the installed version into the folder."""
    tests = tests_of_transformers(folder)
    name = tests.parent.name
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", name.replace("-", "=="), "--quiet", "--dest", temporary]
        subprocess.run([*command, "--no-deps", "--no-binary", "transformers"], check=True)
        with tarfile.open(Path(temporary) / f"{name}.tar.gz") as archive:
            members = [member for member in archive if member.name.startswith(f"{name}/tests/")]
            archive.extractall(folder, members, filter="data")
    (tests / "__init__.py").touch()  # last: it says that the others are there


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not (tests_of_transformers(target) / "__init__.py").exists():
        download(target)
