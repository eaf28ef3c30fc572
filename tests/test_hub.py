"""Publishing and loading with the real huggingface_hub client, against a loopback Hub.

The client reads its endpoint when it is imported, so everything here runs in processes of its own, as a user would.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, hub_fixture, serve  # noqa: F401 (a fixture)
from huggingface_hub import ModelCard

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds for a process
CODE = {
    "modeling_vit.py",
    "backbone.py",
    "configuration_trunk.py",
    "configuration_vit.py",
    "embedding.py",
    "pretrained.py",
    "transformer.py",
}
MODEL = CODE | {"config.json", "model.safetensors", "README.md"}

TINY = """
import torch, hf_vit_suite
config = hf_vit_suite.SuiteViTConfig(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8, num_labels=3
)
model = hf_vit_suite.SuiteViTForImageClassification(config).eval()
"""

PUSH = f"""{TINY}
from transformers import ViTImageProcessor
processor = ViTImageProcessor(size={{"height": 32, "width": 32}})
model.push_to_hub("user/tiny", commit_message="First weights")
processor.push_to_hub("user/tiny")

image = torch.randint(256, (3, 40, 50), dtype=torch.uint8)
pixels = processor(image, return_tensors="pt")["pixel_values"]
with torch.no_grad():
    expected = {{"image": image, "pixels": pixels, "logits": model(pixels).logits, "pooled": model.vit(pixels)[1]}}
torch.save(expected, "expected.pt")
"""

LOAD_ANYWHERE = """
import sys
sys.modules["hf_vit_suite"] = None  # importing it raises
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification
expected = torch.load("expected.pt")
for auto in AutoModel, AutoModelForImageClassification:
    try:
        auto.from_pretrained("user/tiny")
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError("a repository's code must not run without trust")
assert not any(name.startswith("transformers_modules.user") for name in sys.modules)

processor = AutoImageProcessor.from_pretrained("user/tiny")
pixels = processor(expected["image"], return_tensors="pt")["pixel_values"]
torch.testing.assert_close(pixels, expected["pixels"])
model = AutoModelForImageClassification.from_pretrained("user/tiny", trust_remote_code=True).eval()
encoder = AutoModel.from_pretrained("user/tiny", trust_remote_code=True).eval()
assert type(model).__module__.startswith("transformers_modules.user.tiny."), type(model)
with torch.no_grad():
    torch.testing.assert_close(model(pixels).logits, expected["logits"])
    torch.testing.assert_close(encoder(pixels).pooler_output, expected["pooled"])
"""

LOAD_WITH_PACKAGE = """
import torch, hf_vit_suite
from transformers import AutoBackbone, AutoImageProcessor, AutoModel, AutoModelForImageClassification
expected = torch.load("expected.pt")
pixels = AutoImageProcessor.from_pretrained("user/tiny")(expected["image"], return_tensors="pt")["pixel_values"]
model = AutoModelForImageClassification.from_pretrained("user/tiny").eval()
encoder = AutoModel.from_pretrained("user/tiny").eval()
backbone = AutoBackbone.from_pretrained("user/tiny").eval()
assert type(model) is hf_vit_suite.SuiteViTForImageClassification
assert type(encoder) is hf_vit_suite.SuiteViTModel
assert type(backbone) is hf_vit_suite.SuiteViTBackbone
with torch.no_grad():
    torch.testing.assert_close(model(pixels).logits, expected["logits"])
    torch.testing.assert_close(encoder(pixels).pooler_output, expected["pooled"])
    patches = encoder(pixels).last_hidden_state[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(backbone(pixels).feature_maps[-1], patches)
"""

TRAIN = f"""{TINY}
from transformers import Trainer, TrainingArguments
rows = [{{"pixel_values": torch.randn(3, 32, 32), "labels": number % 3}} for number in range(4)]
arguments = TrainingArguments(
    output_dir="trained", push_to_hub=True, hub_model_id="user/trained", max_steps=1, save_steps=1,
    per_device_train_batch_size=2, use_cpu=True, report_to="none",
)
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
trainer.push_to_hub()
"""

FINETUNE = (
    "finetune", "--dataset", "digits", "--max_steps", "2", "--per_device_train_batch_size", "8",
    "--report_to", "none", "--push_to_hub", "--hub_model_id", "user/digits", "--output_dir", "digits",
)  # fmt: skip


TINY_PRESET = (
    "--preset", "vit_tiny_patch16_224", "--config_overrides",
    "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,image_size=32,patch_size=8",
)  # fmt: skip


def run(hub: Hub, folder: Path, *arguments: str, home: str = "home", check: bool = True):
    """Runs Python in `folder`, with `hub` as its Hub and caches below `folder / home`."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **hub.environment(folder / home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    if check:
        assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result


def messages(hub: Hub, repo: str) -> list[str]:
    """What the commits to a repository say, without the Hub's own first."""
    return [commit.message for commit in hub.history(repo)[1:]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hub, Path]]:
    """A Hub with the pushed "user/tiny", and the folder where its outputs are kept in expected.pt."""
    folder = tmp_path_factory.mktemp("published")
    with serve() as server:
        run(server, folder, "-c", PUSH)
        yield server, folder


def test_pushed_model_arrives_with_its_code(published: tuple[Hub, Path]):
    hub, _ = published
    model, processor = hub.history("user/tiny")[1:]
    assert model.message == "First weights"
    assert set(model.files) == MODEL
    assert set(processor.files) == {"preprocessor_config.json"}, "the unchanged card is not sent again"
    assert model.files["transformer.py"] == (ROOT / "hf_vit_suite/models/transformer.py").read_bytes()
    assert hub.unknown == []


def test_weights_go_through_lfs_and_text_inline(published: tuple[Hub, Path]):
    hub, _ = published
    assert hub.lfs_files("user/tiny") == {"model.safetensors"}
    assert list(hub.objects.values()) == [hub.files("user/tiny")["model.safetensors"]]


def test_pushed_model_opens_where_the_package_is_missing_but_not_without_trust(published: tuple[Hub, Path]):
    hub, folder = published
    run(hub, folder, "-c", LOAD_ANYWHERE, home="anywhere")
    assert hub.unknown == []


def test_pushed_model_opens_without_trust_where_the_package_is_imported(published: tuple[Hub, Path]):
    hub, folder = published
    before = len(hub.requests)
    run(hub, folder, "-c", LOAD_WITH_PACKAGE, home="package")
    assert not any(request.endswith(".py") for request in hub.requests[before:]), "its code is the package's"
    assert hub.unknown == []


def test_trainer_pushes_weights_code_and_card(hub: Hub, tmp_path: Path):
    run(hub, tmp_path, "-c", TRAIN)
    files = hub.files("user/trained")
    assert set(files) >= MODEL | {"training_args.bin"}
    assert hub.lfs_files("user/trained") == {"model.safetensors", "training_args.bin"}
    assert files["model.safetensors"] == (tmp_path / "trained/model.safetensors").read_bytes()
    assert ModelCard(files["README.md"].decode()).data.library_name == "transformers"
    assert not any(name.startswith("checkpoint-") for name in files)
    assert messages(hub, "user/trained") == ["Training in progress, step 1", "End of training"]
    assert hub.unknown == []


@pytest.mark.parametrize(
    "arguments", [("-c", PUSH), ("-m", "hf_vit_suite", *FINETUNE, *TINY_PRESET)], ids=["method", "command"]
)
def test_refused_push_is_an_error_that_says_so(hub: Hub, tmp_path: Path, arguments: tuple[str, ...]):
    hub.refused.add("create")
    result = run(hub, tmp_path, *arguments, check=False)
    assert result.returncode == 1
    assert "403 Forbidden: user has no right to do this: create" in result.stderr
    assert hub.commits == []
    assert hub.objects == {}
    assert hub.unknown == []


def test_finetune_pushes_model_card_figures_and_code(hub: Hub, tmp_path: Path):
    run(hub, tmp_path, "-m", "hf_vit_suite", *FINETUNE, *TINY_PRESET)
    files = hub.files("user/digits")
    assert set(files) >= MODEL | {"metrics.json", "preprocessor_config.json", "curves.png", "confusion_matrix.png"}
    assert not any(name.startswith((".staged", "checkpoint-")) for name in files)
    sent = {name: content for name, content in files.items() if name != ".gitattributes"}
    assert sent == {name: (tmp_path / "digits" / name).read_bytes() for name in sent}, "the folder is what was sent"
    assert not any(TOKEN.encode() in content for content in sent.values()), "the token is nobody's business"
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "transformers"
    measured = json.loads(files["metrics.json"])["metrics"]["test"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == measured
    assert 'model="user/digits"' in card.text
    assert hub.unknown == []


def test_token_of_the_command_line_and_local_base_folder_stay_private(hub: Hub, tmp_path: Path):
    run(hub, tmp_path, "-m", "hf_vit_suite", *FINETUNE, *TINY_PRESET)
    base = tmp_path / "base"
    (tmp_path / "digits").rename(base)
    without_token = "import os, sys; del os.environ['HF_TOKEN']; from hf_vit_suite.cli import main; sys.exit(main())"
    run(hub, tmp_path, "-c", without_token, *FINETUNE, "--model", str(base), "--hub_token", TOKEN)
    files = hub.files("user/digits")
    assert not any(TOKEN.encode() in content for content in files.values())
    card = ModelCard(files["README.md"].decode())
    assert "--hub_token '***'" in card.text
    assert card.data.base_model is None


def test_pretrained_autoencoder_is_pushed_and_fine_tuned_by_its_name(hub: Hub, tmp_path: Path):
    sizes = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,image_size=32,patch_size=8"
    decoder = "decoder_hidden_size=16,decoder_num_hidden_layers=1,decoder_num_attention_heads=2"
    run(hub, tmp_path, "-m", "hf_vit_suite", "pretrain", "mae", "--dataset", "digits", "--max_steps", "1",
        "--config_overrides", f"{sizes},{decoder},decoder_intermediate_size=32", "--report_to", "none",
        "--push_to_hub", "--hub_model_id", "user/mae", "--hub_token", TOKEN, "--output_dir", "mae")  # fmt: skip
    files = hub.files("user/mae")
    assert set(files) >= {"modeling_mae.py", "configuration_mae.py", "config.json", "model.safetensors",
                          "preprocessor_config.json", "metrics.json", "reconstruction.png", "README.md"}  # fmt: skip
    assert not any(TOKEN.encode() in content for content in files.values()), "the token is nobody's business"
    card = ModelCard(files["README.md"].decode())
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "hf-vit-suite finetune --model user/mae" in card.text
    run(hub, tmp_path, "-m", "hf_vit_suite", "finetune", "--dataset", "digits", "--model", "user/mae",
        "--max_steps", "1", "--report_to", "none", "--output_dir", "digits", home="other")  # fmt: skip
    assert json.loads((tmp_path / "digits" / "config.json").read_text())["pooling"] == "mean"
    assert ModelCard.load(tmp_path / "digits" / "README.md").data.base_model == "user/mae"
    assert hub.unknown == []
