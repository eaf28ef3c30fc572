"""Fixtures of the training tests."""

from pathlib import Path

import pytest
from references_of_training import make_colours


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 24 pictures without classes, some of them deeper."""
    folder = make_colours(tmp_path / "pictures", images_a_class=8)
    for index, path in enumerate(sorted((folder / "red").iterdir())):
        path.rename(folder / f"loose{index}.png")
    return folder
