"""Small models and data of the training tests."""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 16,
    "patch_size": 8,
    "id2label": {0: "blue", 1: "green", 2: "red"},
}
# The same network as arguments of the command.
TINY_PRESET = (
    "--preset",
    "vit_tiny_patch16_224",
    "--config_overrides",
    "hidden_size=32,num_hidden_layers=3,num_attention_heads=2,intermediate_size=64,image_size=16,patch_size=8",
)


def tiny_classifier(**fields) -> SuiteViTForImageClassification:
    """A tiny classifier with random weights."""
    return SuiteViTForImageClassification(SuiteViTConfig(**{**TINY, **fields}))


def save_tiny_classifier(folder: Path, **fields) -> Path:
    """A tiny classifier's folder with its image processor."""
    tiny_classifier(**fields).save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def make_colours(root: Path, images_a_class: int = 40, names: tuple[str, ...] = ("blue", "green", "red")) -> Path:
    """Noisy pictures in which one channel, the class's, is brightest: easy to learn in seconds."""
    random = np.random.default_rng(0)
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(images_a_class):
            pixels = random.integers(0, 120, (20, 24, 3))
            pixels[..., 2 - number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{index}.png")
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """A folder's weights."""
    return load_file(folder / "model.safetensors")


def assert_moved_alike(
    found: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    start: dict[str, torch.Tensor],
    tolerance: float = 1e-2,
) -> None:
    """Two trainings from `start` ended at the same weights.

    Each tensor may differ by `tolerance` of the way that it went, as rounding differs between processes. The bias of
    the keys is left out: it has no gradient, so that Adam makes whole steps of its rounding.
    """
    assert found.keys() == expected.keys()
    for name in expected:
        ended, wanted, began = (state[name].double() for state in (found, expected, start))
        if name.endswith("attention.qkv.bias"):
            ended, wanted, began = (
                torch.cat((query, value)) for query, _, value in (bias.chunk(3) for bias in (ended, wanted, began))
            )
        assert (ended - wanted).norm() <= tolerance * (wanted - began).norm(), name


def report(folder: Path) -> dict:
    """A folder's metrics.json."""
    return json.loads((folder / "metrics.json").read_text())


def training_log(folder: Path) -> list[dict]:
    """Trainer's log, from the folder's last checkpoint."""
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return json.loads((last / "trainer_state.json").read_text())["log_history"]


def losses(folder: Path) -> list[float]:
    """Training losses in Trainer's order."""
    return [entry["loss"] for entry in training_log(folder) if "loss" in entry]


def assert_one_line_error(result: subprocess.CompletedProcess, *parts: str, code: int = 1) -> None:
    """The last line of stderr is the error, holds these parts, and there is no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last, last
