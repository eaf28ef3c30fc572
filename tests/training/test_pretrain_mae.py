"""`hf-vit-suite pretrain mae` as users run it, and what goes on from its folder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from references_of_training import (
    assert_one_line_error,
    losses,
    make_colours,
    report,
    save_tiny_classifier,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining, pipeline

from hf_vit_suite.data import decode_image
from hf_vit_suite.training.finetune import job_defaults
from hf_vit_suite.training.mae import MAE, MAETrainingArguments

TINY = (
    "--config_overrides",
    "hidden_size=32,num_hidden_layers=3,num_attention_heads=2,intermediate_size=64,image_size=16,patch_size=4,"
    "decoder_hidden_size=16,decoder_num_hidden_layers=2,decoder_num_attention_heads=2,decoder_intermediate_size=32",
    "--base_learning_rate",
    "0.05",
    "--per_device_train_batch_size",
    "8",
    "--logging_steps",
    "1",
)


@pytest.fixture
def pretrain(run_command, pictures: Path, tmp_path: Path):
    """Runs the command on the pictures into `tmp_path / "mae"`; further arguments follow."""

    def run(*arguments: str, **options):
        fixed = ("pretrain", "mae", "--dataset", str(pictures), "--output_dir", str(tmp_path / "mae"), *TINY)
        return run_command(*fixed, *arguments, **options)

    return run


def test_the_loss_falls_and_previews_show_it(pretrain, tmp_path: Path):
    output = pretrain("--num_train_epochs", "20", "--preview_steps", "20", "--report_to", "tensorboard").stdout
    folder = tmp_path / "mae"
    found = losses(folder)
    assert np.mean(found[-5:]) < 0.9 * np.mean(found[:5])
    written = report(folder)
    assert written["images"]["train"] == 24
    assert written["steps"] == 60
    assert f"loss {written['metrics']['loss']:.4f} after 60 steps on 24 images" in output
    assert f"{written['metrics']['loss']:.4f}" in (folder / "README.md").read_text()
    steps = [f"step-{step:08d}.png" for step in (20, 40, 60)]
    assert sorted(path.name for path in (folder / "previews").iterdir()) == steps
    first, last = (np.asarray(decode_image(folder / "previews" / name)) for name in (steps[0], steps[-1]))
    assert first.shape == last.shape
    assert (first != last).any()
    events = EventAccumulator(str(folder / "runs"), size_guidance={"images": 0})
    for path in (folder / "runs").rglob("events.*"):
        events = EventAccumulator(str(path), size_guidance={"images": 0}).Reload()
        if events.Tags()["images"]:
            break
    assert [event.step for event in events.Images("reconstruction")] == [20, 40, 60]


def test_folder_opens_as_encoder_as_autoencoder_and_in_a_pipeline(pretrain, pictures: Path, tmp_path: Path):
    pretrain("--max_steps", "2", "--report_to", "none")
    folder = str(tmp_path / "mae")
    encoder, whole = (auto.from_pretrained(folder).eval() for auto in (AutoModel, AutoModelForPreTraining))
    pixels = torch.randn(1, 3, 16, 20)
    torch.testing.assert_close(encoder(pixels).last_hidden_state, whole.vit(pixels).last_hidden_state)
    extract = pipeline("image-feature-extraction", model=folder)
    assert len(extract(str(pictures / "loose0.png"))[0]) == 17


def test_learning_rate_follows_the_total_batch_and_the_schedule_of_the_paper(pretrain, tmp_path: Path):
    pretrain(
        "--max_steps", "20", "--gradient_accumulation_steps", "2", "--warmup_steps", "0.25", "--report_to", "none"
    )
    state = json.loads((tmp_path / "mae" / "checkpoint-20" / "trainer_state.json").read_text())
    found = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    peak = 0.05 * 8 * 2 / 256
    # A step's rate is that of the steps before it (He et al. 2021, table 8: linear warm-up, then half a cosine).
    expected = [
        peak * (step / 5 if step < 5 else 0.5 * (1 + math.cos(math.pi * (step - 5) / 15))) for step in range(20)
    ]
    assert found == pytest.approx(expected, rel=1e-6)


def test_learning_rate_follows_from_the_batch_unless_it_is_given():
    arguments = MAETrainingArguments(output_dir="unused", report_to="none")
    assert arguments.learning_rate == 1.5e-4 * 64 / 256
    assert MAETrainingArguments(output_dir="unused", report_to="none", learning_rate=1e-3).learning_rate == 1e-3


def test_training_goes_on_from_a_folder(pretrain, run_command, pictures: Path, tmp_path: Path):
    pretrain("--max_steps", "2", "--report_to", "none")
    (tmp_path / "mae").rename(tmp_path / "first")
    run_command("pretrain", "mae", "--dataset", str(pictures), "--model", str(tmp_path / "first"), "--output_dir",
                str(tmp_path / "second"), "--mask_ratio", "0.5", "--image_size", "24", "--max_steps", "1",
                "--learning_rate", "1e-9", "--report_to", "none")  # fmt: skip
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-7)
    assert json.loads((tmp_path / "second" / "config.json").read_text())["mask_ratio"] == 0.5
    assert json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())["size"]["height"] == 24


def test_fine_tuning_takes_the_encoder_over(pretrain, run_command, tmp_path: Path):
    pretrain("--max_steps", "3", "--report_to", "none")
    colours = make_colours(tmp_path / "colours")
    run_command("finetune", "--dataset", str(colours), "--model", str(tmp_path / "mae"), "--linear_probe",
                "--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--report_to", "none")  # fmt: skip
    encoder = AutoModel.from_pretrained(tmp_path / "mae").state_dict()
    found = weights(tmp_path / "out")
    for name, weight in encoder.items():
        kept = torch.equal(found[f"vit.{name}"], weight)
        assert kept != name.startswith("norm."), name  # the norm of a mean starts anew
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "suite_vit"
    assert config["pooling"] == "mean"
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    pixels = torch.randn(1, 3, 16, 16)
    tokens = AutoModel.from_pretrained(tmp_path / "mae").eval()(pixels, output_hidden_states=True).hidden_states[-1]
    pooled = torch.nn.functional.layer_norm(
        tokens[:, 1:].mean(dim=1), (32,), found["vit.norm.weight"], found["vit.norm.bias"], eps=1e-6
    )
    expected = pooled @ found["classifier.weight"].T + found["classifier.bias"]
    torch.testing.assert_close(model(pixels).logits, expected)


def test_fine_tuning_a_pretrained_encoder_decays_the_rate_by_layer(pretrain, tmp_path: Path):
    pretrain("--max_steps", "1", "--report_to", "none")
    classifier = save_tiny_classifier(tmp_path / "classifier")

    def defaults(model: Path) -> dict:
        return job_defaults(
            {"dataset": "digits", "preset": None, "model": str(model), "linear_probe": False, "lora": False}
        )

    assert defaults(tmp_path / "mae")["layer_decay"] == 0.75
    assert "layer_decay" not in defaults(classifier)


def test_preset_that_is_named_is_not_made_small_for_the_digits():
    given = {"dataset": "digits", "model": None, "linear_probe": False, "lora": False}
    for of_recipe in (job_defaults, MAE.job_defaults):
        assert "config_overrides" in of_recipe(given | {"preset": None})
        assert "config_overrides" not in of_recipe(given | {"preset": "named"})


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ("--preset", "vit_tiny_patch16_224"),
            ("vit_tiny_patch16_224 is no suite_mae: choose mae_vit_base, mae_vit_large",),
        ),
        (("--preset", "mae_vit_gigantic"), ("no preset is named 'mae_vit_gigantic'",)),
        (("--model", "nowhere/nothing"), ("--preset and --config_overrides are for training from scratch",)),
        (("--mask_ratio", "0.99"), ("mask_ratio must leave at least one of 16 patches visible",)),
        (("--image_size", "17"), ("multiple of patch_size 4", "17")),
        (("--dataset", "./nowhere"), ("./nowhere", "there is no such file or folder")),
        (("--resume_from_checkpoint", "last"), ("no complete checkpoint",)),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_arguments_that_do_not_fit_are_one_line(pretrain, tmp_path: Path, arguments: tuple, parts: tuple):
    assert_one_line_error(pretrain(*arguments, "--report_to", "none", check=False), *parts)
    assert not (tmp_path / "mae" / "model.safetensors").exists()


def test_preset_of_an_autoencoder_is_not_fine_tuned_from_random_weights(run_command):
    result = run_command("finetune", "--preset", "mae_vit_base", "--dataset", "digits", check=False)
    assert_one_line_error(result, "mae_vit_base is pretrained before it is fine-tuned", "--model")


def test_folder_without_images_is_one_line(run_command, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    result = run_command("pretrain", "mae", "--dataset", str(tmp_path / "empty"), check=False)
    assert_one_line_error(result, "there is no image in this folder or below")


def test_reconstruction_of_any_picture_is_drawn(pretrain, run_command, tmp_path: Path):
    pretrain("--max_steps", "1", "--report_to", "none")
    picture = tmp_path / "wide.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 70, 3), np.uint8)).save(picture)
    for method in ("reconstruction", "attention"):
        out = tmp_path / f"{method}.png"
        run_command("explain", str(tmp_path / "mae"), str(picture), "--method", method, "--out", str(out))
        width, height = decode_image(out).size
        assert width > 2 * height
    classifier = save_tiny_classifier(tmp_path / "classifier")
    refused = run_command("explain", str(classifier), str(picture), "--method", "reconstruction", "--out", "x.png",
                          check=False)  # fmt: skip
    assert_one_line_error(refused, "reconstructs nothing", "suite_vit")
    no_classifier = run_command("predict", str(tmp_path / "mae"), str(picture), check=False)
    assert_one_line_error(no_classifier, "is an encoder without labels: fine-tune it first")


def test_base_preset_is_the_default_and_predicts_normalised_pixels(run_command, pictures: Path, tmp_path: Path):
    run_command("pretrain", "mae", "--dataset", str(pictures), "--output_dir", str(tmp_path / "base"),
                "--max_steps", "1", "--per_device_train_batch_size", "2", "--report_to", "none",
                "--config_overrides", "num_hidden_layers=1,decoder_num_hidden_layers=1")  # fmt: skip
    config = AutoModelForPreTraining.from_pretrained(tmp_path / "base").config
    assert (config.hidden_size, config.decoder_hidden_size, config.mask_ratio) == (768, 512, 0.75)
    assert config.norm_pix_loss
