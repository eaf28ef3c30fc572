"""Every example runs in a fresh process, with options that are often combined."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION, TINY_MAE, TINY_VIT
from references_of_training import make_colours, weights
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    PreTrainedModel,
    VisionTextDualEncoderModel,
    ViTImageProcessor,
)

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPModel,
    SuiteCLIPTextModel,
    SuiteMAEConfig,
    SuiteMAEForPreTraining,
    SuiteViTConfig,
    SuiteViTForImageClassification,
    SuiteViTModel,
)
from hf_vit_suite.data.tokenization import SMALLEST_VOCABULARY, train_tokenizer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = (
    "--use_cpu", "--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "True", "--logging_steps", "1",
    "--per_device_train_batch_size", "8",
)  # fmt: skip
TOGETHER = (
    "--bf16", "--gradient_accumulation_steps", "2", "--dataloader_num_workers", "2",
    "--dataloader_persistent_workers", "True",
)  # fmt: skip
CHANCE = torch.tensor(3.0).log().item()  # of three classes
COLOURS = {"red": "a red square", "green": "something green", "blue": "the blue one"}


def save(model: PreTrainedModel, folder: Path) -> Path:
    """A model's folder with an image processor."""
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def moved(before: Path, after: Path) -> dict[str, bool]:
    """Whether each weight changed."""
    old, new = weights(before), weights(after)
    return {
        name: not torch.equal(new[name], weight) for name, weight in old.items() if new[name].shape == weight.shape
    }


def losses(output: Path) -> list[float]:
    """The training loss of each step."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def run_example(run_python: Callable, name: str, model: Path, data: Path, output: Path, *options: str) -> dict:
    """Runs an example with the Trainer.

    Returns:
        Its metrics.
    """
    run_python(str(EXAMPLES / name), "--model_name_or_path", str(model), "--data_dir", str(data),
               "--output_dir", str(output), *QUICK, *options)  # fmt: skip
    return json.loads((output / "all_results.json").read_text())


def test_image_classification_learns(tmp_path: Path, run_python):
    data = make_colours(tmp_path / "data", images_a_class=20)
    before = save(SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT | {"num_labels": 7})), tmp_path / "before")
    out = tmp_path / "out"
    options = ("--num_train_epochs", "12", "--learning_rate", "0.003", *TOGETHER)
    metrics = run_example(run_python, "image_classification.py", before, data, out, *options)
    assert metrics["eval_loss"] < CHANCE / 2
    assert metrics["eval_accuracy"] > 1 / 3
    reopened = AutoModelForImageClassification.from_pretrained(out)
    assert sorted(reopened.config.id2label.values()) == ["blue", "green", "red"]
    assert all(moved(before, out).values())


def test_image_classification_without_trainer_learns_in_two_processes(tmp_path: Path, run_python):
    data = make_colours(tmp_path / "data", images_a_class=20)
    before = save(SuiteViTForImageClassification(SuiteViTConfig(**TINY_VIT | {"num_labels": 7})), tmp_path / "before")
    result = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(EXAMPLES / "image_classification_no_trainer.py"), str(before), str(data), str(tmp_path / "out"),
        "--epochs", "12", "--batch_size", "4", "--learning_rate", "0.003", "--gradient_accumulation_steps", "2",
        ACCELERATE_USE_CPU="true", ACCELERATE_MIXED_PRECISION="bf16", OMP_NUM_THREADS="1",
    )  # fmt: skip
    epochs = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    assert len(epochs) == 12  # of one process
    assert float(epochs[-1].rpartition(" ")[2]) < CHANCE / 2
    reopened = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert reopened.config.num_labels == 3
    assert all(moved(before, tmp_path / "out").values())
    loading = f"""
import hf_vit_suite
from transformers import pipeline
print(pipeline("image-classification", model="out")({str(data / "green" / "0.png")!r})[0]["label"])
"""
    assert run_python("-c", loading).stdout.split()[-1] == "green"


def test_masked_autoencoder_trains_what_its_options_say(tmp_path: Path, run_python):
    data = make_colours(tmp_path / "data", images_a_class=20)
    before, out = save(SuiteMAEForPreTraining(SuiteMAEConfig(**TINY_MAE)), tmp_path / "before"), tmp_path / "out"
    options = ("--num_train_epochs", "10", "--mask_ratio", "0.5", "--norm_pix_loss", "--base_learning_rate", "0.1")
    metrics = run_example(
        run_python, "masked_autoencoder.py", before, data, out, *options, *TOGETHER, "--lr_scheduler_type", "constant"
    )
    reopened = AutoModelForPreTraining.from_pretrained(out)
    assert (reopened.config.mask_ratio, reopened.config.norm_pix_loss) == (0.5, True)
    arguments = torch.load(out / "training_args.bin", weights_only=False)
    assert arguments.learning_rate == pytest.approx(0.1 * 16 / 256)
    assert losses(out)[-1] < 0.8 * losses(out)[0]
    assert metrics["eval_loss"] < 0.8 * losses(out)[0]
    for name, has_moved in moved(before, out).items():
        assert has_moved != name.endswith("position_embeddings"), name


def captioned(folder: Path) -> Path:
    """Images with captions."""
    make_colours(folder, images_a_class=20)
    rows = [(path.relative_to(folder), COLOURS[path.parent.name]) for path in sorted(folder.rglob("*.png"))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *(f"{path},{text}" for path, text in rows)]))
    return folder


def two_towers(kind: str, folder: Path) -> Path:
    """Saves a model of two towers with its tokenizer and processor."""
    text = TINY_CLIP_TEXT | {"vocab_size": SMALLEST_VOCABULARY, "max_position_embeddings": 20}
    text = {name: value for name, value in text.items() if not name.endswith("token_id")}
    clip = SuiteCLIPModel(SuiteCLIPConfig(vision_config=TINY_CLIP_VISION, text_config=text))
    if kind == "dual encoder":
        save(SuiteViTModel(SuiteViTConfig(**TINY_VIT)), folder / "vision")
        clip.text_model.save_pretrained(folder / "text")
        clip = VisionTextDualEncoderModel.from_vision_text_pretrained(folder / "vision", folder / "text")
        assert type(clip.text_model) is SuiteCLIPTextModel
        assert type(clip.vision_model) is SuiteViTModel
    save(clip, folder / kind)
    train_tokenizer(COLOURS.values(), SMALLEST_VOCABULARY, most_tokens=20).save_pretrained(folder / kind)
    return folder / kind


@pytest.mark.parametrize(("kind", "frozen"), [("clip", "text_model"), ("dual encoder", "vision_model")])
def test_two_towers_learn_but_what_is_frozen(kind: str, frozen: str, tmp_path: Path, run_python):
    before, out = two_towers(kind, tmp_path), tmp_path / "out"
    options = ("--num_train_epochs", "10", "--learning_rate", "0.003", "--most_tokens", "20", f"--freeze_{frozen}")
    metrics = run_example(
        run_python, "contrastive_image_text.py", before, captioned(tmp_path / "data"), out, *options, *TOGETHER
    )
    assert losses(out)[-1] < 0.8 * losses(out)[0]
    assert metrics["eval_loss"] < 0.8 * losses(out)[0]
    for name, has_moved in moved(before, out).items():
        assert has_moved != name.startswith(f"{frozen}."), name
    reopened = AutoModel.from_pretrained(out)
    assert reopened.get_text_features(torch.tensor([[3, 4]])).pooler_output.shape == (
        1,
        reopened.config.projection_dim,
    )
