"""`hf-vit-suite convert` and `hf_vit_suite.load` as users run them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from hub_server import serve
from PIL import Image
from published import PIXELS, of_dino_linear, vision_transformer
from references import assert_equals_reference
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

import hf_vit_suite
from hf_vit_suite.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent


def test_a_file_becomes_a_folder_and_goes_back(tmp_path: Path, run_command, run_python):
    model = vision_transformer()
    save_file(model.state_dict(), tmp_path / "vit.safetensors")
    result = run_command("convert", "vit.safetensors", "ours", "--verify")
    assert "timm, classifier" in result.stdout
    assert "layer 2" in result.stdout
    assert "wrote ours: SuiteViTForImageClassification" in result.stdout
    code = (
        "import sys; sys.modules['hf_vit_suite'] = None\n"
        "import torch; from transformers import AutoModelForImageClassification as Auto\n"
        "model = Auto.from_pretrained('ours', trust_remote_code=True)\n"
        "torch.save(model(torch.load('pixels.pt')).logits, 'logits.pt')"
    )
    torch.save(PIXELS, tmp_path / "pixels.pt")
    run_python("-c", code)
    assert_equals_reference(torch.load(tmp_path / "logits.pt"), model(PIXELS))
    run_python("-m", "hf_vit_suite.conversion", "ours", "back.safetensors", "--to", "timm")
    back = load_file(tmp_path / "back.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_are_cast_where_a_type_is_asked_for(tmp_path: Path):
    save_file(vision_transformer().state_dict(), tmp_path / "vit.safetensors")
    assert main(["convert", str(tmp_path / "vit.safetensors"), str(tmp_path / "ours"), "--dtype", "bfloat16"]) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "ours")
    assert model.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in load_file(tmp_path / "ours" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("layout", "file", "message"),
    [
        ("dinov2", "out.pth", "error: the layout dinov2 has no form for this SuiteViTForImageClassification"),
        ("timm", "out.npz", "out.npz must end with .pth or .pt or .bin or .safetensors in the layout timm"),
    ],
)
def test_a_model_without_place_in_a_layout_is_refused(
    layout: str, file: str, message: str, tmp_path: Path, classifier_folder: Path, capfd: pytest.CaptureFixture
):
    assert main(["convert", str(classifier_folder), str(tmp_path / file), "--to", layout]) == 1
    assert message in capfd.readouterr().err
    assert not (tmp_path / file).exists()


def test_a_conversion_that_differs_from_the_reference_is_not_kept(tmp_path: Path, capfd: pytest.CaptureFixture):
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "vit_tiny_patch16_224"}')
    convert = ["convert", str(folder), str(tmp_path / "ours"), "--verify"]
    assert main([*convert, "--config_overrides", "num_attention_heads=6"]) == 1
    assert "differs from timm's by more than 1e-05" in capfd.readouterr().err
    assert not (tmp_path / "ours").exists()
    assert main(convert) == 0


def test_a_converted_encoder_is_explained_and_says_that_it_has_no_labels(tmp_path: Path, capfd: pytest.CaptureFixture):
    save_file(vision_transformer(num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    ours, picture, out = (str(tmp_path / name) for name in ("ours", "picture.png", "attention.png"))
    Image.new("RGB", (50, 40), "orange").save(picture)
    assert main(["convert", str(tmp_path / "vit.safetensors"), ours]) == 0
    assert main(["explain", ours, picture, "--out", out]) == 0
    with Image.open(out) as figure:
        assert figure.width > figure.height
    assert main(["predict", ours, picture]) == 1
    assert "is an encoder without labels: fine-tune it first" in capfd.readouterr().err


def test_options_of_the_other_direction_are_wrong_arguments(tmp_path: Path):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "model", str(tmp_path / "out.pth"), "--to", "timm", "--verify"])
    assert stopped.value.code == 2


def test_a_classifier_apart_is_asked_for_on_the_way_out(tmp_path: Path, capfd: pytest.CaptureFixture):
    published = of_dino_linear(tmp_path, layers=1)
    ours, back, head = (str(tmp_path / name) for name in ("ours", "back.pth", "back_head.pth"))
    assert main(["convert", str(published.source), ours, "--head", str(published.head)]) == 0
    assert main(["convert", ours, back, "--to", "dino"]) == 1
    assert "name it, --head FILE" in capfd.readouterr().err
    assert main(["convert", ours, back, "--to", "dino", "--head", head]) == 0
    assert set(torch.load(head)["state_dict"]) == {"module.linear.weight", "module.linear.bias"}


MEASURE = """
import resource, sys, threading, time
from pathlib import Path
from hf_vit_suite.cli import main
import hf_vit_suite.conversion, torchvision
from hf_vit_suite.conversion.layouts import all_layouts
all_layouts()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
before, peak, done = resident(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
code = main(sys.argv[1:])
done = True
thread.join()
print("bytes", peak - before)
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_memory_stays_near_the_files_size(suffix: str, tmp_path: Path, run_python):
    path = tmp_path / f"vit{suffix}"
    state = vision_transformer(depth=16, embed_dim=768, num_heads=12).state_dict()
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    assert path.stat().st_size > 400 * 2**20
    del state
    result = run_python("-c", MEASURE, "convert", str(path), "ours", "--layout", "timm")
    used = int(result.stdout.split("bytes")[-1])
    assert used < 1.3 * path.stat().st_size + 64 * 2**20


def test_load_opens_ours_and_references(tmp_path: Path, classifier_folder: Path):
    ours = hf_vit_suite.load(classifier_folder)
    assert type(ours) is hf_vit_suite.SuiteViTForImageClassification
    assert not ours.training
    theirs = vision_transformer()
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    loaded = hf_vit_suite.load(tmp_path / "vit.safetensors")
    assert not loaded.training
    assert_equals_reference(loaded(PIXELS).logits, theirs(PIXELS))
    with pytest.raises(ValueError, match="nothing/here is no file, no folder, and no Hub repository"):
        hf_vit_suite.load("nothing/here")


PUSH = """
import torch
from transformers import ViTConfig, ViTForImageClassification
torch.manual_seed(0)
sizes = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=64, image_size=32)
model = ViTForImageClassification(ViTConfig(**sizes, patch_size=16)).eval()
model.push_to_hub("user/vit")
with torch.no_grad():
    torch.save(model(torch.ones(1, 3, 32, 32)).logits, "expected.pt")
"""
LOAD = """
import torch, hf_vit_suite
model = hf_vit_suite.load("user/vit")
assert type(model) is hf_vit_suite.SuiteViTForImageClassification
with torch.no_grad():
    torch.testing.assert_close(model(torch.ones(1, 3, 32, 32)).logits, torch.load("expected.pt"))
"""


def test_a_hub_name_is_loaded_and_converted(tmp_path: Path):
    with serve() as hub:

        def run(*arguments: str, home: str = "reader") -> None:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **hub.environment(tmp_path / home)}
            result = subprocess.run(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert result.returncode == 0, result.stderr

        run("-c", PUSH, home="writer")
        run("-c", LOAD)
        run("-m", "hf_vit_suite", "convert", "user/vit", "ours")
        assert hub.unknown == []
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert config["model_type"] == "suite_vit"
