"""The documented experiments run, and the results tables are those of their metrics.json."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_vit_suite.commands.training import parse
from hf_vit_suite.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_experiment_says_what_it_shows_and_names_known_options(path: Path):
    text = path.read_text()
    for title in ("# Command:", "# Machine:", "# Duration:", "# Expected:"):
        assert title in text
    name = path.stem.split("_")[0]
    verb = "finetune" if name == "finetune" else f"pretrain {name}"
    assert f"hf-vit-suite {verb} --config configs/{path.name}" in text
    arguments = parse(load_recipe(name), ["--config", str(path), "--use_cpu"])
    for option, value in yaml.safe_load(text).items():
        given = [getattr(part, option) for part in arguments[:4] if hasattr(part, option)]
        assert given[0] == value, option


def test_every_result_belongs_to_an_experiment_and_its_tables_are_generated():
    results = {path.name for path in (ROOT / "configs" / "results").iterdir()}
    assert results <= {path.stem for path in CONFIGS}
    checked = subprocess.run(
        [sys.executable, ROOT / "configs" / "tables.py", "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
