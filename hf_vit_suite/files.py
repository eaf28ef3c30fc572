"""Writing output so that nothing half-written stays behind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_folder(destination: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder whose files move into `destination` once the block has ended without an error.

    Files of the same name there are replaced, others stay. After an error `destination` is as it was.
    """
    destination = Path(destination)
    existed = destination.exists()
    destination.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staged-", dir=destination))
    try:
        yield staging
        for path in sorted(staging.iterdir()):
            os.replace(path, destination / path.name)
    finally:
        shutil.rmtree(staging)
        if not existed and not any(destination.iterdir()):
            destination.rmdir()


@contextmanager
def staged_file(destination: str | os.PathLike) -> Iterator[Path]:
    """A temporary path, of the same suffix, that becomes `destination` once the block has ended without an error."""
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staged-", dir=destination.parent))
    try:
        yield staging / destination.name
        os.replace(staging / destination.name, destination)
    finally:
        shutil.rmtree(staging)
