"""Notebooks run from top to bottom."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
# Trained weights beside the project; a user has the Hub instead.
WEIGHTS = Path(os.environ.get("SUITE_TEST_WEIGHTS", NOTEBOOKS.parents[1] / "shared" / "weights"))


@pytest.mark.skipif(not (WEIGHTS / "dinov2-small").exists(), reason="SUITE_TEST_WEIGHTS has no dinov2-small")
@pytest.mark.filterwarnings("default")  # of Jupyter's own packages
def test_explanations_are_drawn_with_a_trained_encoder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPLAIN_ENCODER", str(WEIGHTS / "dinov2-small"))
    for name in ("EXPLAIN_AUTOENCODER", "EXPLAIN_CLIP"):
        monkeypatch.setenv(name, "")
    notebook = nbformat.read(NOTEBOOKS / "explanation.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
    accuracy = next(output.text for output in outputs if output.get("name") == "stdout" and "accuracy" in output.text)
    assert float(accuracy.split()[-1]) > 0.8
