"""What rows the recipes train on: epochs with persistent workers, parts of a stream by process, resumed streams."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from references_of_training import (
    TINY_PRESET,
    assert_moved_alike,
    assert_one_line_error,
    losses,
    make_colours,
    tiny_classifier,
    weights,
)
from transformers import Trainer, TrainingArguments, ViTImageProcessor

from hf_vit_suite.data import AugmentedImages, ImageTransform, collate_images, load_image_dataset, training_transform
from hf_vit_suite.training.finetune import FinetuneTrainingArguments
from hf_vit_suite.training.trainer import AugmentationEpoch, training_rows

SMALL = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=64,image_size=16,patch_size=8"
RECIPES = {
    # Evaluation draws no number of the training either.
    "finetune": ("finetune", *TINY_PRESET, "--drop_path_rate", "0.3", "--eval_strategy", "epoch"),
    "mae": (
        "pretrain", "mae", "--config_overrides",
        f"{SMALL},decoder_hidden_size=16,decoder_num_hidden_layers=1,decoder_num_attention_heads=2,"
        "decoder_intermediate_size=32",
    ),
    "dino": (
        "pretrain", "dino", "--local_crops", "2", "--drop_path_rate", "0.3", "--config_overrides",
        f"{SMALL},head_hidden_size=32,head_bottleneck_size=16,num_prototypes=64",
    ),
    "clip": (
        "pretrain", "clip", "--caption_templates", "a {}", "--train_tokenizer", "--vocab_size", "600",
        "--config_overrides", ",".join(f"vision_config.{field}" for field in SMALL.split(","))
        + ",text_config.hidden_size=32,text_config.num_hidden_layers=1,text_config.num_attention_heads=2,"
        "text_config.intermediate_size=32,projection_dim=16",
    ),
}  # fmt: skip
QUICK = ("--per_device_train_batch_size", "8", "--logging_steps", "1", "--report_to", "none", "--use_cpu")


@pytest.mark.parametrize("recipe", RECIPES)
def test_persistent_workers_train_as_one_process_does(run_command, tmp_path: Path, recipe: str):
    colours = make_colours(tmp_path / "colours", images_a_class=8)
    found = []
    for name, workers in (
        ("alone", ("--eval_strategy", "no", "--load_best_model_at_end", "False") if recipe == "finetune" else ()),
        ("workers", ("--dataloader_num_workers", "2")),
    ):
        run_command(*RECIPES[recipe], "--dataset", str(colours), "--output_dir", str(tmp_path / name), *QUICK,
                    "--num_train_epochs", "3", "--save_strategy", "epoch", *workers)  # fmt: skip
        found.append(losses(tmp_path / name))
    assert len(found[0]) >= 6
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_resumed_run_with_persistent_workers_and_dropout_goes_on_as_the_unbroken_one(run_command, tmp_path: Path):
    colours = make_colours(tmp_path / "colours", images_a_class=8)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    command = (*RECIPES["finetune"], "--dataset", str(colours), *QUICK, "--num_train_epochs", "3",
               "--save_total_limit", "9", "--dataloader_num_workers", "2")  # fmt: skip
    run_command(*command, "--output_dir", str(whole))
    first = min(whole.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    shutil.copytree(first, resumed / first.name)
    run_command(*command, "--output_dir", str(resumed), "--resume_from_checkpoint", "last")
    assert losses(resumed) == pytest.approx(losses(whole), rel=1e-5)
    assert_moved_alike(weights(resumed), weights(whole), start=weights(first))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_plain_trainer_draws_another_augmentation_each_epoch_and_when_resumed(tmp_path: Path, workers: int):
    split = load_image_dataset("digits").splits["test"].select(range(12))
    transform = ImageTransform(training_transform(ViTImageProcessor(size={"height": 16, "width": 16})))
    seen: list[torch.Tensor] = []

    class Recording(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            seen.append(inputs["pixel_values"].sum())
            return super().compute_loss(model, inputs, **kwargs)

    def train(resume: bool) -> list[float]:
        seen.clear()
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, max_steps=9, save_steps=4,
            report_to="none", remove_unused_columns=False, use_cpu=True, dataloader_num_workers=workers,
            disable_tqdm=True, dataloader_persistent_workers=workers > 0, dataloader_pin_memory=False,
        )  # fmt: skip
        rows = AugmentedImages(split, transform, 1)
        model = tiny_classifier(id2label={number: str(number) for number in range(10)})
        trainer = Recording(model=model, args=arguments, train_dataset=rows, data_collator=collate_images,
                            callbacks=[AugmentationEpoch()])  # fmt: skip
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4") if resume else None)
        return torch.stack(seen).tolist()

    unbroken = train(resume=False)
    epochs = [sum(unbroken[start : start + 3]) for start in (0, 3, 6)]
    assert len({round(total, 2) for total in epochs}) == 3
    assert train(resume=True) == pytest.approx(unbroken[4:])


def test_data_seed_of_zero_is_one(tmp_path: Path):
    rows = load_image_dataset("digits").splits["test"]
    seeds = [
        training_rows(
            rows,
            ImageTransform(torch.nn.Identity()),
            FinetuneTrainingArguments(output_dir=str(tmp_path), seed=7, report_to="none", use_cpu=True, **options),
        ).seed
        for options in ({}, {"data_seed": 0}, {"data_seed": 3})
    ]
    assert seeds == [7, 0, 3]


TWO_PROCESSES = """
import json, os, sys, torch
from pathlib import Path
from hf_vit_suite.cli import main
from hf_vit_suite.training.finetune import ClassificationTrainer

seen, compute_loss = [], ClassificationTrainer.compute_loss

def spy(self, model, inputs, *args, **kwargs):
    if model.training:
        seen.extend(inputs["pixel_values"].mean(dim=(1, 2, 3)).tolist())
    return compute_loss(self, model, inputs, *args, **kwargs)

ClassificationTrainer.compute_loss = spy
code = main(sys.argv[2:])
assert not torch.distributed.is_initialized()  # all have left: none can end while another still saves
Path(sys.argv[1], os.environ.get("RANK", "0") + ".json").write_text(json.dumps(seen))
sys.exit(code)
"""


# Three steps are one pass; with two workers in each process, two steps stay within the first pass of each worker.
@pytest.mark.parametrize(("workers", "steps"), [("0", "3"), ("2", "2")])
def test_two_processes_train_on_parts_of_a_stream_that_make_up_the_whole(
    run_python, tmp_path: Path, workers: str, steps: str
):
    (tmp_path / "spy.py").write_text(TWO_PROCESSES)
    colours = make_colours(tmp_path / "data" / "train", images_a_class=8).parent
    for split in ("val", "test"):
        shutil.copytree(colours / "train", colours / split)
    common = (
        str(tmp_path / "spy.py"), str(tmp_path), "finetune", *TINY_PRESET, "--dataset", str(colours), "--streaming",
        "--output_dir", str(tmp_path / "out"), *QUICK, "--per_device_train_batch_size", "4", "--save_strategy", "no",
        "--load_best_model_at_end", "False", "--eval_strategy", "no", "--horizontal_flip", "0",
        "--random_resized_crop", "False",
    )  # fmt: skip
    run_python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *common, "--max_steps", steps,
               "--dataloader_num_workers", workers, "--ddp_backend", "gloo", OMP_NUM_THREADS="1")  # fmt: skip
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(len(part) == 4 * int(steps) for part in parts)
    assert len({*parts[0], *parts[1]}) == 8 * int(steps)  # 24 of 24 images, or 16


@pytest.mark.parametrize("workers", ["0", "2"])
def test_resumed_stream_goes_on_where_it_was_in_a_later_pass(run_command, tmp_path: Path, workers: str):
    colours = make_colours(tmp_path / "colours", images_a_class=8)
    fixed = (*RECIPES["mae"], "--dataset", str(colours), "--output_dir", str(tmp_path / "mae"), *QUICK, "--streaming",
             "--max_steps", "8", "--save_strategy", "steps", "--save_steps", "4",
             "--dataloader_num_workers", workers)  # fmt: skip
    run_command(*fixed)
    shutil.copytree(tmp_path / "mae", tmp_path / "unbroken")
    shutil.rmtree(tmp_path / "mae" / "checkpoint-8")
    run_command(*fixed, "--resume_from_checkpoint", "last")
    for name, weight in weights(tmp_path / "unbroken").items():
        torch.testing.assert_close(weights(tmp_path / "mae")[name], weight, rtol=1e-5, atol=1e-7)


def test_stream_without_a_readable_image_is_one_line(run_command, tmp_path: Path):
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    result = run_command(*RECIPES["mae"], "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "mae"), *QUICK,
                         "--streaming", "--max_steps", "2", check=False)  # fmt: skip
    assert_one_line_error(result, "readable image")
