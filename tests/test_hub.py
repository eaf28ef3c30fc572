"""Publishing with the real huggingface_hub client, against a loopback Hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_server import Hub, serve

CODE = {"modeling_vit.py", "configuration_vit.py", "embedding.py", "transformer.py"}

PUSH = """
import torch, hf_vit_suite
from transformers import ViTImageProcessor
config = hf_vit_suite.SuiteViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
)
model = hf_vit_suite.SuiteViTForImageClassification(config).eval()
model.push_to_hub("user/tiny", commit_message="First weights")
ViTImageProcessor(size={"height": 32, "width": 32}).push_to_hub("user/tiny")
pixels = torch.randn(2, 3, 32, 32)
torch.save({"pixels": pixels, "logits": model(pixels).logits.detach()}, "expected.pt")
"""

LOAD_ANYWHERE = """
import sys, torch
sys.modules["hf_vit_suite"] = None  # importing it raises
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification
expected = torch.load("expected.pt")
model = AutoModelForImageClassification.from_pretrained("user/tiny", trust_remote_code=True).eval()
assert torch.equal(model(expected["pixels"]).logits, expected["logits"])
encoder = AutoModel.from_pretrained("user/tiny", trust_remote_code=True).eval()
features = model.classifier(encoder(expected["pixels"]).pooler_output)
torch.testing.assert_close(features, expected["logits"], rtol=1e-5, atol=1e-5)
assert AutoImageProcessor.from_pretrained("user/tiny").size["height"] == 32
try:
    AutoModel.from_pretrained("user/tiny")
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("code of a repository must not run without trust")
"""

LOAD_WITH_PACKAGE = """
import torch, hf_vit_suite
from transformers import AutoBackbone, AutoModelForImageClassification
expected = torch.load("expected.pt")
model = AutoModelForImageClassification.from_pretrained("user/tiny").eval()
assert type(model) is hf_vit_suite.SuiteViTForImageClassification
assert torch.equal(model(expected["pixels"]).logits, expected["logits"])
assert AutoBackbone.from_pretrained("user/tiny")(expected["pixels"]).feature_maps[0].shape == (2, 32, 4, 4)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A Hub of the test's own."""
    with serve() as server:
        yield server


def test_pushed_model_opens_with_its_code_where_the_package_is_missing(hub: Hub, run_python, tmp_path: Path):
    environment = hub.environment(tmp_path / "home")
    run_python("-c", PUSH, **environment)
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} | CODE <= set(hub.files("user/tiny"))
    assert "First weights" in [commit.message for commit in hub.repositories["user/tiny"]]
    run_python("-c", LOAD_ANYWHERE, **environment)
    run_python("-c", LOAD_WITH_PACKAGE, **environment)
    assert hub.unknown == []
    assert torch.load(tmp_path / "expected.pt")["logits"].shape == (2, 3)


def test_refused_push_is_an_error_that_says_so(hub: Hub, run_python, tmp_path: Path):
    hub.refuses = True
    result = run_python("-c", PUSH, check=False, **hub.environment(tmp_path / "home"))
    assert result.returncode == 1
    assert "403" in result.stderr
    assert "rights to create a model" in result.stderr


def test_finetune_pushes_model_card_figures_and_code(hub: Hub, run_command, tmp_path: Path):
    run_command(
        "finetune", "--max_steps", "2", "--per_device_train_batch_size", "8", "--report_to", "none", "--output_dir",
        str(tmp_path / "out"), "--push_to_hub", "--hub_model_id", "user/digits", **hub.environment(tmp_path / "home"),
    )  # fmt: skip
    files = hub.files("user/digits")
    expected = {
        "README.md",
        "metrics.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "curves.png",
    }
    assert expected | CODE <= set(files)
    assert not any(name.startswith((".staged", "checkpoint-")) for name in files)
    for name in expected:
        assert files[name] == (tmp_path / "out" / name).read_bytes()
    card = files["README.md"].decode()
    assert "pipeline_tag: image-classification" in card
    assert "library_name: transformers" in card
    accuracy = json.loads(files["metrics.json"])["metrics"]["test"]["accuracy"]
    assert f"value: {accuracy}" in card
    assert 'model="user/digits"' in card
    assert hub.unknown == []
