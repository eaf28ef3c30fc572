"""Fixtures of every test."""

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
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
from hf_vit_suite.cli import main

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
def run_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess]:
    """Runs `hf-vit-suite` in this process, as `run_python` runs Python; returns what it printed, logged and warned."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        printed, errors = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(errors)
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        try:
            with redirect_stdout(printed), redirect_stderr(errors), warnings.catch_warnings():
                warnings.simplefilter("default")  # as for a person
                code = main(arguments)
        except SystemExit as exit:
            code = exit.code
        finally:
            logging.getLogger().removeHandler(handler)
        if check and code:
            raise AssertionError(f"exit code {code}\n{printed.getvalue()}\n{errors.getvalue()}")
        return subprocess.CompletedProcess(arguments, code or 0, printed.getvalue(), errors.getvalue())

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
