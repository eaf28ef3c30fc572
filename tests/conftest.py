"""Fixtures of every test."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several workers with as many threads as cores each would only wait for one another.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nothing here may wait for a network; the Hub's tests set their own endpoint in processes of their own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import ViTImageProcessor

import hf_vit_suite  # registers the families

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs Python in a fresh process, as a user would; the keyword arguments are extra environment variables."""

    def run(*arguments: str, check: bool = True, timeout: float = 900, **environment: str):
        result = subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_MODULES_CACHE": str(tmp_path / "modules"), **environment},
        )
        if check and result.returncode:
            raise AssertionError(f"exit code {result.returncode}\n{result.stdout}\n{result.stderr}")
        return result

    return run


@pytest.fixture
def run_command(run_python) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `hf-vit-suite` in a fresh process."""

    def run(*arguments: str, **options):
        return run_python("-m", "hf_vit_suite", *arguments, **options)

    return run


@pytest.fixture
def classifier_folder(tmp_path: Path) -> Path:
    """A saved tiny classifier of three labels with its image processor."""
    config = hf_vit_suite.SuiteViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "owl"},
        initializer_range=0.2,
    )
    hf_vit_suite.SuiteViTForImageClassification(config).save_pretrained(tmp_path / "model")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"
