"""`hf-vit-suite finetune` as users run it: in its own process, on real files."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from references_of_training import (
    TINY_PRESET,
    assert_moved_alike,
    assert_one_line_error,
    make_colours,
    report,
    save_tiny_classifier,
    weights,
)
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from hf_vit_suite.data import decode_image

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "--per_device_train_batch_size",
    "8",
    "--num_train_epochs",
    "3",
    "--learning_rate",
    "3e-3",
    "--report_to",
    "none",
)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """An image folder of three easy classes."""
    return make_colours(tmp_path / "colours")


@pytest.fixture
def finetune(run_command, colours: Path, tmp_path: Path):
    """Runs the command on the colours into `tmp_path / "out"`; further arguments follow."""

    def run(*arguments: str, **options):
        fixed = ("finetune", "--dataset", str(colours), "--output_dir", str(tmp_path / "out"), *QUICK)
        return run_command(*fixed, *arguments, **options)

    return run


def test_trained_folder_classifies(finetune, colours: Path, tmp_path: Path):
    output = finetune(*TINY_PRESET).stdout
    folder = tmp_path / "out"
    measured = report(folder)["metrics"]["test"]
    assert measured["accuracy"] >= 0.9
    assert f"test accuracy {measured['accuracy']:.4f} on 12 images" in output
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    image = decode_image(colours / "red" / "0.png")
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt").pixel_values
    assert model(pixels).logits.argmax().item() == 2
    for name in ("attention.png", "curves.png", "confusion_matrix.png"):
        assert min(decode_image(folder / name).size) > 200


def test_whole_recipe_at_once_still_learns(finetune, tmp_path: Path):
    teacher = save_tiny_classifier(tmp_path / "teacher")
    finetune(
        *TINY_PRESET, "--rand_augment", "5", "--random_erasing", "0.25", "--mixup", "0.8", "--cutmix", "1.0",
        "--label_smoothing_factor", "0.1", "--drop_path_rate", "0.1", "--layer_decay", "0.9", "--ema_decay", "0.9",
        "--early_stopping_patience", "5", "--gradient_accumulation_steps", "2", "--activation_checkpointing",
        "--bf16", "--use_cpu", "--teacher", str(teacher), "--distillation", "soft", "--distillation_alpha", "0.1",
    )  # fmt: skip
    found = report(tmp_path / "out")
    assert found["metrics"]["test"]["accuracy"] >= 0.6
    assert found["steps"] == 18
    assert json.loads((tmp_path / "out" / "config.json").read_text())["drop_path_rate"] == 0.1


def test_distilled_student_learns_from_its_teacher_alone(finetune, colours: Path, tmp_path: Path):
    finetune(*TINY_PRESET)
    teacher = tmp_path / "teacher"
    (tmp_path / "out").rename(teacher)
    preset = TINY_PRESET[-1] + ",use_distillation_token=true"
    # With alpha 1 the labels have no part in the loss: what the student knows is the teacher's.
    finetune(
        *TINY_PRESET[:-1], preset, "--teacher", str(teacher), "--distillation", "hard", "--distillation_alpha", "1.0"
    )
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    images = [decode_image(colours / name / f"{i}.png") for name in ("blue", "green", "red") for i in range(10)]
    outputs = student(processor(images, return_tensors="pt").pixel_values)
    expected = torch.arange(3).repeat_interleave(10)
    assert (outputs.distillation_logits.argmax(dim=-1) == expected).float().mean() >= 0.9


def test_linear_probe_trains_the_head_alone(finetune, tmp_path: Path):
    base = save_tiny_classifier(tmp_path / "base")
    before = weights(base)
    finetune("--model", str(base), "--linear_probe")
    for name, weight in weights(tmp_path / "out").items():
        assert torch.equal(weight, before[name]) == ("classifier" not in name), name


def test_adapters_are_merged_and_change_the_blocks(finetune, tmp_path: Path):
    base = save_tiny_classifier(tmp_path / "base")
    before = weights(base)
    finetune("--model", str(base), "--lora", "--lora_rank", "4", "--ema_decay", "0.5")
    after = weights(tmp_path / "out")
    assert after.keys() == before.keys()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert "vit.encoder.blocks.0.attention.qkv.weight" in changed
    assert "classifier.weight" in changed
    assert not any("embeddings" in name or "norm" in name for name in changed)
    difference = (
        after["vit.encoder.blocks.0.attention.qkv.weight"] - before["vit.encoder.blocks.0.attention.qkv.weight"]
    )
    assert torch.linalg.matrix_rank(difference, atol=1e-5) <= 4
    assert report(tmp_path / "out")["metrics"]["test"]["accuracy"] >= 0.6


def test_head_of_other_labels_is_replaced_and_said_so(finetune, tmp_path: Path):
    base = save_tiny_classifier(tmp_path / "base", id2label={0: "cat", 1: "dog", 2: "owl"})
    output = finetune("--model", str(base), "--max_steps", "1")
    assert "a new head is made" in output.stderr
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"] == {
        "0": "blue", "1": "green", "2": "red"
    }  # fmt: skip
    old, new = weights(base)["classifier.weight"], weights(tmp_path / "out")["classifier.weight"]
    assert (old - new).abs().mean() > 0.005  # one step of the optimiser moves a weight by less


def test_transformers_own_checkpoint_is_trained_at_another_image_size(finetune, tmp_path: Path):
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "base")
    AutoImageProcessor.from_pretrained(save_tiny_classifier(tmp_path / "ours")).save_pretrained(tmp_path / "base")
    finetune("--model", str(tmp_path / "base"))
    assert report(tmp_path / "out")["metrics"]["test"]["accuracy"] >= 0.6
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "vit"


def test_other_image_size_is_kept_in_the_image_processor(finetune, tmp_path: Path):
    base = save_tiny_classifier(tmp_path / "base")
    finetune("--model", str(base), "--image_size", "24", "--max_steps", "2")
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size["height"] == 24
    assert weights(tmp_path / "out")["vit.embeddings.position_embeddings"].shape[1] == 5


RESUMABLE = (
    *TINY_PRESET, "--ema_decay", "0.9", "--mixup", "0.5", "--rand_augment", "5", "--drop_path_rate", "0.2",
    "--save_strategy", "steps", "--save_steps", "5", "--eval_strategy", "steps", "--eval_steps", "5",
    "--max_steps", "24",
)  # fmt: skip


def test_killed_run_resumes_to_the_same_weights_as_an_unbroken_one(run_command, colours: Path, tmp_path: Path):
    common = ["finetune", "--dataset", str(colours), *QUICK, *RESUMABLE]
    run_command(*common, "--output_dir", str(tmp_path / "unbroken"))
    broken = tmp_path / "broken"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "hf_vit_suite", *common, "--output_dir", str(broken)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 300
    while not (broken / "checkpoint-10" / "ema.safetensors").exists():
        assert process.poll() is None
        assert time.time() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "model.safetensors").exists()
    start = weights(broken / "checkpoint-10")
    (broken / "checkpoint-99").mkdir()  # what a kill while saving leaves
    run_command(*common, "--output_dir", str(broken), "--resume_from_checkpoint", "last")
    expected, found = weights(tmp_path / "unbroken"), weights(broken)
    assert_moved_alike(found, expected, start)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--preset", "vit_huge"), ("no preset is named 'vit_huge'",)),
        (("--preset", "vit_tiny_patch16_224", "--model", "x"), ("give one of --preset", "--model")),
        ((), ("give one of --preset",)),
        (("--model", "nowhere/nothing"), ("nowhere/nothing",)),
        ((*TINY_PRESET, "--linear_probe", "--lora"), ("give one of --linear_probe and --lora",)),
        (("--preset", "vit_tiny_patch16_224", "--config_overrides", "width=3"), ("no field width",)),
        (("--preset", "vit_tiny_patch16_224", "--config_overrides", "width"), ("name=value pairs", "'width'")),
        (("--preset", "vit_tiny_patch16_224", "--image_size", "225"), ("multiple of patch_size 16", "225")),
        ((*TINY_PRESET, "--resume_from_checkpoint", "last"), ("no complete checkpoint",)),
        ((*TINY_PRESET, "--resume_from_checkpoint", "nowhere"), ("nowhere is no checkpoint folder",)),
        ((*TINY_PRESET, "--ema_decay", "2"), ("ema_decay must be above 0 and below 1, got 2",)),
        ((*TINY_PRESET, "--layer_decay", "2"), ("layer_decay must be above 0 and at most 1, got 2",)),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_arguments_that_do_not_fit_are_one_line(finetune, tmp_path: Path, arguments: tuple, parts: tuple):
    assert_one_line_error(finetune(*arguments, check=False), *parts)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_every_image_is_measured_though_training_drops_incomplete_batches(finetune, tmp_path: Path):
    finetune(*TINY_PRESET, "--max_steps", "2", "--dataloader_drop_last", "True")
    assert report(tmp_path / "out")["images"] == {"train": 96, "validation": 12, "test": 12}


def test_early_stopping_without_evaluated_checkpoints_is_refused(finetune):
    result = finetune(*TINY_PRESET, "--early_stopping_patience", "2", "--save_strategy", "no", check=False)
    assert_one_line_error(result, "--early_stopping_patience", "--save_strategy and --eval_strategy the same value")


@pytest.mark.parametrize("strategy", ["save_strategy", "eval_strategy"])
def test_run_without_checkpoints_or_evaluation_keeps_the_last_weights(finetune, tmp_path: Path, strategy: str):
    finetune(*TINY_PRESET, f"--{strategy}", "no")
    assert report(tmp_path / "out")["steps"] == 36
    assert bool(list((tmp_path / "out").glob("checkpoint-*"))) == (strategy == "eval_strategy")


def test_missing_data_is_one_line_and_debug_shows_the_traceback(run_command, tmp_path: Path):
    missing = run_command("finetune", "--dataset", "./nowhere", *TINY_PRESET, check=False)
    assert_one_line_error(missing, "./nowhere", "there is no such file or folder")
    debugged = run_command("--debug", "finetune", "--dataset", "./nowhere", *TINY_PRESET, check=False)
    assert "Traceback" in debugged.stderr
