"""What gets installed."""

import configparser
from importlib.metadata import entry_points
from pathlib import Path

import hf_vit_suite

ROOT = Path(__file__).resolve().parent.parent


def test_every_folder_with_code_is_a_named_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = set(setup["options"]["packages"].split())
    folders = {path.parent for path in (ROOT / "hf_vit_suite").rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    folders = {path.parent for path in (ROOT / "conversion").rglob("*.py")}
    found |= {".".join(("hf_vit_suite", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert named == found


def test_installed_command_and_conversion_package(run_python):
    script = "import hf_vit_suite.conversion as c; print(c.__doc__.split()[0])"
    # The conversion package lies outside of hf_vit_suite's folder, so that only an installation has it.
    assert run_python("-c", script, PYTHONPATH="").stdout.strip() == "Reference"
    (command,) = entry_points(group="console_scripts", name="hf-vit-suite")
    assert command.load() is hf_vit_suite.cli.main
