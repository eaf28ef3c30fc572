"""Every command and snippet of README.md and docs/ runs as written, in a folder with small models and data."""

import gzip
import re
import shlex
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hf_vit_suite.conversion import export_reference
from PIL import Image
from recipes import TINY_RECIPES, caption
from references_of_training import make_colours
from transformers import BitImageProcessor

import hf_vit_suite
from hf_vit_suite import SuiteViTModel, preset_config
from hf_vit_suite.cli import main
from hf_vit_suite.evaluation import evaluate as evaluations
from hf_vit_suite.evaluation.linear import linear_probe
from hf_vit_suite.models.presets import PRESETS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "transformers.md"  # has a test of its own
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {GUIDE})]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What shortens a run, for commands and calls.
SMALL = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "logging_steps": 1,
}


def write_idx(folder: Path) -> None:
    """A tiny Fashion-MNIST: 10 classes of 28 x 28 pixels."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, number in (("train", 200), ("t10k", 40)):
        pixels = random.integers(0, 255, (number, 28, 28), np.uint8)
        images = struct.pack(">IIII", 0x803, number, 28, 28) + pixels.tobytes()
        labels = struct.pack(">II", 0x801, number) + bytes(index % 10 for index in range(number))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the pages speak of."""
    folder = tmp_path_factory.mktemp("world")
    make_colours(folder / "photos", images_a_class=30, names=("cat", "dog", "owl"))
    caption(make_colours(folder / "captioned", images_a_class=12))
    write_idx(folder / "fashion-mnist")
    for name in ("photo.jpg", "emoji.jpg"):
        Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(folder / name)
    (folder / "configs").symlink_to(ROOT / "configs")
    for recipe in TINY_RECIPES:
        name, data = ("photos", "photos") if recipe.name == "finetune" else (recipe.name, "captioned")
        given = {"dataset": folder / data, "output_dir": folder / "outputs" / name, "save_strategy": "no"}
        if recipe.name == "clip":  # prompts are longer than its captions
            given["config_overrides"] = f"{recipe.options['config_overrides']},text_config.max_position_embeddings=77"
        assert main(recipe.command(**given, **SMALL | {"per_device_train_batch_size": 8})) == 0
    encoder = SuiteViTModel(preset_config("dinov2_vits14", num_hidden_layers=2, image_size=56))
    encoder.save_pretrained(folder / "outputs" / "dinov2")
    processor = BitImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56})
    processor.save_pretrained(folder / "outputs" / "dinov2")
    export_reference(folder / "outputs" / "dinov2", folder / "dinov2.pth", "dinov2")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets of one narrow layer, and calls of two steps."""
    narrow = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    for name, (config_class, fields) in list(PRESETS.items()):
        if "clip" in name:
            towers = {tower: {**fields.get(tower, {}), **narrow} for tower in ("vision_config", "text_config")}
            small_fields = {**fields, **towers}
        else:
            decoder = {f"decoder_{field}": value for field, value in narrow.items()} if "mae" in name else {}
            head = {"num_prototypes": 64} if name.startswith("dino_") else {}
            small_fields = {**fields, **narrow, **decoder, **head}
        monkeypatch.setitem(PRESETS, name, (config_class, small_fields))
    monkeypatch.setattr(evaluations, "linear_probe", partial(linear_probe, steps=20))
    for name in ("finetune", "pretrain"):
        monkeypatch.setattr(hf_vit_suite, name, partial(getattr(hf_vit_suite, name), **SMALL), raising=False)


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a bash block."""
    for line in block.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            assert words[0] == "hf-vit-suite", f"{line}: mark what the test can't run as text"
            yield words[1:]


@pytest.mark.filterwarnings("ignore")  # of libraries; the pages show no warnings
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_snippets_run_as_written(
    page: Path, world: Path, small: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    monkeypatch.chdir(world)
    names: dict = {}
    blocks = BLOCK.findall(page.read_text())
    for language, block in blocks:
        torch.manual_seed(0)
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
            continue
        for arguments in commands(block):
            if arguments[0] in ("finetune", "pretrain"):
                arguments += [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
                arguments.append("--overwrite_output_dir")
            assert main(arguments) == 0, f"{shlex.join(arguments)}\n{capfd.readouterr().err[-500:]}"
    assert blocks


def test_readme_is_short_and_no_command_is_long_or_broken_within_a_word():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for page in PAGES:
        for block in re.findall(r"^```(?:bash|text)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            assert not re.search(r"\S\\\n", block), f"{page.name}: {block}"


def test_links_lead_somewhere():
    for page in [*PAGES, ROOT / "ARCHITECTURE.md", GUIDE]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
