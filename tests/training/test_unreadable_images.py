"""Whole runs on data with unreadable images."""

import shutil
from pathlib import Path

import pytest
from references_of_training import TINY_PRESET, assert_one_line_error, losses, make_colours, report, training_log

import hf_vit_suite

QUICK = ("--per_device_train_batch_size", "8", "--logging_steps", "1", "--report_to", "none", "--use_cpu")
BROKEN = ("train/red/3.png", "train/blue/0.png", "val/red/1.png", "test/green/2.png", "test/red/0.png")


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Three splits of 24 images, of which two, one and two are unreadable."""
    root = make_colours(tmp_path / "data" / "train", images_a_class=8).parent
    for split in ("val", "test"):
        shutil.copytree(root / "train", root / split)
    for name in BROKEN:
        (root / name).write_bytes(b"no picture")
    return root


def skipped(folder: Path) -> list[str]:
    """The images that metrics.json names, as split, class and file."""
    lines = report(folder)["skipped_images"]
    return sorted("/".join(line.partition(" is no readable image")[0].split("/")[-3:]) for line in lines)


def finetune(colours: Path, out: Path, *more: str) -> tuple[str, ...]:
    """A fine-tuning command."""
    return ("finetune", *TINY_PRESET, "--dataset", str(colours), "--output_dir", str(out), *QUICK,
            "--num_train_epochs", "2", "--per_device_eval_batch_size", "1", *more)  # fmt: skip


def test_unreadable_images_change_no_metric_and_are_named_once(colours: Path, run_command, tmp_path: Path):
    for name, workers in (("one", "0"), ("two", "2")):
        run_command(*finetune(colours, tmp_path / name, "--dataloader_num_workers", workers, "--bf16", "true"))
        assert skipped(tmp_path / name) == sorted(BROKEN)
        assert report(tmp_path / name)["images"] == {"validation": 23, "test": 22, "train": 24}
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    for name in BROKEN:
        (colours / name).unlink()
    options = {"dataset": str(colours), "split": "test", "output_dir": str(tmp_path / "measured")}
    measured = hf_vit_suite.evaluate("classification", str(tmp_path / "one"), **options)
    metrics = report(tmp_path / "one")["metrics"]["test"]
    assert metrics["accuracy"] == pytest.approx(measured.metrics["accuracy"])
    assert metrics["loss"] == pytest.approx(measured.metrics["loss"], rel=0.05)  # of bfloat16 and float32
    assert all(entry["eval_loss"] > 0 for entry in training_log(tmp_path / "one") if "eval_loss" in entry)


def test_every_process_tells_of_the_images_that_it_read(colours: Path, run_python, tmp_path: Path):
    run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_vit_suite",
        *finetune(colours, tmp_path / "out", "--ddp_backend", "gloo"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert skipped(tmp_path / "out") == sorted(BROKEN)
    assert report(tmp_path / "out")["images"] == {"validation": 23, "test": 22, "train": 24}


def test_mostly_unreadable_images_stop_a_run_with_one_line(colours: Path, run_command, tmp_path: Path):
    for path in (*colours.glob("train/red/*.png"), *colours.glob("train/blue/*.png")):
        path.write_bytes(b"")
    result = run_command(*finetune(colours, tmp_path / "out", "--dataloader_num_workers", "2"), check=False)
    assert_one_line_error(result, "more than half of the images of the train split are unreadable: 1")
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_streamed_run_leaves_unreadable_images_out(colours: Path, run_command, tmp_path: Path):
    streamed = ("--streaming", "--max_steps", "3", "--save_strategy", "no", "--eval_strategy", "no")
    result = run_command(*finetune(colours, tmp_path / "out", *streamed))
    assert report(tmp_path / "out")["images"] == {"validation": 23, "test": 22}
    assert "3.png is no readable image" in result.stderr


@pytest.mark.parametrize("method", ["knn", "classification"])
def test_evaluation_leaves_unreadable_images_out(method: str, colours: Path, tmp_path: Path):
    model = tmp_path / "model"
    hf_vit_suite.finetune(
        dataset=str(colours), output_dir=str(model), max_steps=1, preset="vit_tiny_patch16_224", use_cpu=True,
        config_overrides="image_size=16,patch_size=8,hidden_size=32,num_hidden_layers=1,num_attention_heads=2,"
        "intermediate_size=32", save_strategy="no", report_to="none",
    )  # fmt: skip
    options = {"dataset": str(colours), "output_dir": str(tmp_path / "out")}
    found = hf_vit_suite.evaluate(method, str(model), **options)
    splits = {"knn": ("train", "test"), "classification": ("test",)}[method]
    assert skipped(tmp_path / "out") == sorted(name for name in BROKEN if name.startswith(splits))
    for name in BROKEN:
        (colours / name).unlink()
    again = hf_vit_suite.evaluate(method, str(model), **options)
    assert str(again.metrics) == str(found.metrics)
