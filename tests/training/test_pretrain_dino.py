"""`hf-vit-suite pretrain dino` as users run it, and what goes on from its folder."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from references_of_training import (
    assert_moved_alike,
    assert_one_line_error,
    make_colours,
    report,
    training_log,
    weights,
)
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, pipeline

from hf_vit_suite.config_overrides import parse_overrides
from hf_vit_suite.data import decode_image
from hf_vit_suite.training import dino
from hf_vit_suite.training.arguments import UnlabelledDataArguments
from hf_vit_suite.training.dino import (
    DINO,
    DINOMethodArguments,
    DINOModelArguments,
    DINOTrainer,
    DINOTrainingArguments,
    job_defaults,
)
from hf_vit_suite.training.recipe import Run, RunArguments, build_trainer

OVERRIDES = (
    "hidden_size=32,num_hidden_layers=3,num_attention_heads=2,intermediate_size=64,image_size=16,patch_size=4,"
    "head_hidden_size=32,head_bottleneck_size=16,num_prototypes=64"
)
TINY = (
    "--config_overrides",
    OVERRIDES,
    "--base_learning_rate",
    "0.05",
    "--per_device_train_batch_size",
    "8",
    "--logging_steps",
    "1",
    "--local_crops",
    "3",
    "--report_to",
    "none",
)


@pytest.fixture
def pretrain(run_command, pictures: Path, tmp_path: Path):
    """Runs the command on the pictures into `tmp_path / "dino"`; further arguments follow."""

    def run(*arguments: str, **options):
        fixed = ("pretrain", "dino", "--dataset", str(pictures), "--output_dir", str(tmp_path / "dino"), *TINY)
        return run_command(*fixed, *arguments, **options)

    return run


def test_log_shows_every_step_and_the_neighbours(run_command, tmp_path: Path):
    colours = make_colours(tmp_path / "colours")
    output = run_command(
        "pretrain", "dino", "--dataset", str(colours), "--output_dir", str(tmp_path / "dino"), *TINY,
        "--num_train_epochs", "2", "--knn_steps", "10",
    ).stdout  # fmt: skip
    folder = tmp_path / "dino"
    log = training_log(folder)
    accuracies = [(entry["step"], entry["knn_accuracy"]) for entry in log if "knn_accuracy" in entry]
    assert [step for step, _ in accuracies] == [0, 10, 20, 30]
    written = report(folder)
    assert written["images"]["train"] == 120
    assert written["steps"] == 30
    assert written["metrics"]["knn_accuracy"] == accuracies[-1][1]
    last = ", ".join(f"{name} {value:.4f}" for name, value in written["metrics"].items())
    assert f"{last} after 30 steps on 120 images" in output
    card = (folder / "README.md").read_text()
    assert f"knn accuracy {accuracies[-1][1]:.4f}" in card
    assert "](attention.png)" in card
    entropies = [entry["teacher_entropy"] for entry in log if "teacher_entropy" in entry]
    assert len(entropies) == 30
    assert all(0 < entropy <= math.log(64) for entropy in entropies)


def test_features_of_digits_learn_their_classes_without_labels(run_command, tmp_path: Path):
    """With the defaults of this data set, on real images; the same network untrained is the first accuracy."""
    run_command("pretrain", "dino", "--output_dir", str(tmp_path / "dino"), "--max_steps", "80", "--knn_steps", "80",
                "--warmup_steps", "16", "--lr_scheduler_type", "constant_with_warmup",
                "--report_to", "none")  # fmt: skip
    first, last = (entry["knn_accuracy"] for entry in training_log(tmp_path / "dino") if "knn_accuracy" in entry)
    assert last >= first + 0.1


def test_folder_opens_as_the_teachers_backbone(pretrain, pictures: Path, tmp_path: Path):
    pretrain("--max_steps", "2")
    folder = str(tmp_path / "dino")
    encoder, whole = (auto.from_pretrained(folder).eval() for auto in (AutoModel, AutoModelForPreTraining))
    pixels = torch.randn(1, 3, 16, 20)
    found = encoder(pixels).pooler_output
    torch.testing.assert_close(found, whole.vit(pixels).pooler_output)
    assert not torch.allclose(found, whole.student(pixels).pooler_output, rtol=1e-3)
    extract = pipeline("image-feature-extraction", model=folder)
    assert len(extract(str(pictures / "loose0.png"))[0]) == 17


class Recorder:
    """Keeps what a model is called with."""

    def __init__(self, model: nn.Module):
        self.calls: list[tuple[dict[str, Tensor], float]] = []
        model.register_forward_pre_hook(self.keep, with_kwargs=True)

    def keep(self, model: nn.Module, arguments: tuple, options: dict) -> None:
        crops = {name: options[name].clone() for name in ("pixel_values", "local_pixel_values")}
        self.calls.append((crops, options["teacher_temperature"]))


def tiny_trainer(
    images: Path,
    model: DINOModelArguments,
    method: DINOMethodArguments,
    training: DINOTrainingArguments,
    streaming: bool = False,
) -> DINOTrainer:
    """The recipe's Trainer on a folder of images."""
    data = UnlabelledDataArguments(dataset=str(images), streaming=streaming)
    run = Run(RunArguments(model, data, method, training, "a test"), resume_from=None)
    run.data = DINO.load_data(run.arguments)
    run.model, run.processor = DINO.build_model(model, run.data)
    return build_trainer(DINO, run)


def test_trainer_takes_the_papers_steps(pictures: Path, tmp_path: Path):
    """Two epochs beside a loop over the formulas of the paper's code, on the crops that the Trainer made."""
    model_arguments = DINOModelArguments(config_overrides=OVERRIDES, drop_path_rate=0.0)
    arguments = DINOTrainingArguments(
        output_dir=str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=0.01,
        adam_epsilon=1e-6, max_grad_norm=0.05, teacher_momentum=0.9, teacher_temperature_warmup_epochs=2,
        warmup_steps=2, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = tiny_trainer(pictures, model_arguments, DINOMethodArguments(local_crops=3), arguments)
    model = trainer.model
    start, expected = copy.deepcopy(model.state_dict()), copy.deepcopy(model).train()
    recorder = Recorder(model)
    trainer.train()

    learned = {name: weight for name, weight in expected.named_parameters() if weight.requires_grad}
    # The paper's code exempts biases and what has one dimension, so tokens and positions decay.
    groups = [[weight for weight in learned.values() if (weight.ndim > 1) == decays] for decays in (True, False)]
    optimizer = torch.optim.AdamW([{"params": group, "weight_decay": 0.0} for group in groups], eps=1e-6)
    steps = 6
    assert len(recorder.calls) == steps
    for step, (crops, temperature) in enumerate(recorder.calls):
        epoch = step // 3
        assert temperature == np.linspace(0.04, 0.07, 2)[epoch]
        half_cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        rate = 0.01 * step / 2 if step < 2 else 1e-6 + (0.01 - 1e-6) * 0.5 * (1 + math.cos(math.pi * (step - 2) / 4))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.param_groups[0]["weight_decay"] = 0.4 + (0.04 - 0.4) * half_cosine
        expected(**crops, teacher_temperature=temperature).loss.backward()
        for weight in learned.values():
            weight.grad.mul_(min(1.0, 0.05 / (weight.grad.norm().item() + 1e-6)))
        if epoch < 1:
            expected.student_head.prototypes.zero_grad()
        optimizer.step()
        optimizer.zero_grad()
        expected.update_teacher(1 + (0.9 - 1) * half_cosine)
    assert_moved_alike(model.state_dict(), expected.state_dict(), start)


def test_last_layer_stays_in_the_first_epoch(pretrain, tmp_path: Path):
    pretrain("--num_train_epochs", "2", "--save_strategy", "epoch")
    first, second = (weights(tmp_path / "dino" / f"checkpoint-{step}") for step in (3, 6))
    teacher, student = "teacher_head.prototypes.direction", "student_head.prototypes.direction"
    assert torch.equal(first[teacher], first[student])
    assert not torch.equal(second[teacher], second[student])
    assert not torch.equal(first["vit.norm.weight"], first["student.norm.weight"])


def test_default_schedule_ends_at_the_papers_rate_and_others_take_no_such_option():
    arguments = DINOTrainingArguments(output_dir="unused", report_to="none")
    assert arguments.learning_rate == 5e-4 * 64 / 256
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-6}
    other = DINOTrainingArguments(output_dir="unused", report_to="none", lr_scheduler_type="constant")
    assert other.lr_scheduler_kwargs is None


def test_two_processes_share_sinkhorn_knopp(run_command, run_python, pictures: Path, tmp_path: Path):
    common = ("pretrain", "dino", "--dataset", str(pictures), *TINY, "--max_steps", "4", "--optim", "sgd", "--use_cpu",
              "--dataloader_drop_last", "True", "--drop_path_rate", "0", "--centering",
              "sinkhorn_knopp", "--teacher_momentum", "0.5")  # fmt: skip
    run_command(*common, "--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "16")
    run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_vit_suite", *common,
        "--output_dir", str(tmp_path / "two"), "--ddp_backend", "gloo", OMP_NUM_THREADS="1",
    )  # fmt: skip
    for name in ("loss", "teacher_entropy", "center_divergence"):
        found, expected = (
            [entry[name] for entry in training_log(tmp_path / folder) if name in entry] for folder in ("two", "one")
        )
        assert found == pytest.approx(expected, rel=1e-5), name
    expected = weights(tmp_path / "one")
    assert expected["center.logits"].abs().max() > 0
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_streamed_images_train_in_bfloat16_with_checkpointing_and_every_loss_of_dinov2(pretrain, tmp_path: Path):
    pretrain(
        "--streaming", "--max_steps", "4", "--bf16", "--use_cpu", "--activation_checkpointing",
        "--gradient_accumulation_steps", "2", "--centering", "sinkhorn_knopp", "--koleo_weight", "0.1",
        "--patch_loss_weight", "1", "--freeze_prototypes_epochs", "0",
    )  # fmt: skip
    assert report(tmp_path / "dino")["steps"] == 4
    for entry in training_log(tmp_path / "dino")[:4]:
        parts = entry["class_loss"] + 0.1 * entry["koleo_loss"] + entry["patch_loss"]
        assert math.isfinite(parts)
        assert entry["patch_loss"] > 0
    whole = AutoModelForPreTraining.from_pretrained(tmp_path / "dino")
    assert whole.config.has_mask_token
    assert whole.student.embeddings.mask_token.abs().sum() > 0
    assert whole.patch_center.logits.abs().max() > 0


def test_accumulated_batches_take_the_step_of_a_whole_one(pretrain, tmp_path: Path):
    common = ("--max_steps", "3", "--optim", "sgd", "--drop_path_rate", "0", "--freeze_prototypes_epochs", "0")
    pretrain(*common)
    (tmp_path / "dino").rename(tmp_path / "whole")
    pretrain(*common, "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2")
    expected = weights(tmp_path / "whole")
    for name, weight in weights(tmp_path / "dino").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_stream_counts_epochs_by_steps(pictures: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(dino, "STREAMED_EPOCH_STEPS", 2)
    arguments = DINOTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=5, per_device_train_batch_size=4, save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, teacher_temperature_warmup_epochs=3,
    )  # fmt: skip
    model, method = DINOModelArguments(config_overrides=OVERRIDES), DINOMethodArguments(local_crops=1)
    trainer = tiny_trainer(pictures, model, method, arguments, streaming=True)
    recorder = Recorder(trainer.model)
    trainer.train()
    temperatures = [temperature for _, temperature in recorder.calls]
    assert temperatures == pytest.approx([0.04, 0.04, 0.055, 0.055, 0.07])


def test_training_goes_on_from_a_folder(pretrain, run_command, pictures: Path, tmp_path: Path):
    pretrain("--max_steps", "2")
    (tmp_path / "dino").rename(tmp_path / "first")
    run_command("pretrain", "dino", "--dataset", str(pictures), "--model", str(tmp_path / "first"), "--output_dir",
                str(tmp_path / "second"), "--patch_loss_weight", "1", "--image_size", "24", "--max_steps", "1",
                "--learning_rate", "1e-9", "--teacher_momentum", "1", "--local_crops", "0",
                "--report_to", "none")  # fmt: skip
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert {"student.embeddings.mask_token", "vit.embeddings.mask_token", "patch_center.logits"} == (
        after.keys() - before.keys()
    )
    for name, weight in before.items():
        if name != "center.logits":
            torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-7)
    assert json.loads((tmp_path / "second" / "preprocessor_config.json").read_text())["size"]["height"] == 24


def test_fine_tuning_takes_the_teacher_over_with_its_norm_and_class_token(pretrain, run_command, tmp_path: Path):
    pretrain("--max_steps", "3")
    colours = make_colours(tmp_path / "colours")
    run_command("finetune", "--dataset", str(colours), "--model", str(tmp_path / "dino"), "--linear_probe",
                "--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--report_to", "none")  # fmt: skip
    encoder = AutoModel.from_pretrained(tmp_path / "dino").state_dict()
    found = weights(tmp_path / "out")
    for name, weight in encoder.items():
        assert torch.equal(found[f"vit.{name}"], weight), name
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.model_type, config.pooling) == ("suite_vit", "cls")


def test_folder_is_measured_and_explained(pretrain, run_command, tmp_path: Path):
    pretrain("--max_steps", "1")
    colours = make_colours(tmp_path / "colours", images_a_class=12)
    output = run_command("evaluate", "knn", str(tmp_path / "dino"), "--dataset", str(colours)).stdout
    assert "accuracy" in output
    run_command("explain", str(tmp_path / "dino"), str(tmp_path / "pictures" / "loose0.png"), "--out",
                str(tmp_path / "attention.png"))  # fmt: skip
    assert min(decode_image(tmp_path / "attention.png").size) > 100


def test_preset_that_is_named_is_not_made_small_for_the_digits():
    given = {"dataset": "digits", "model": None, "streaming": False}
    assert parse_overrides(job_defaults(given | {"preset": None})["config_overrides"])
    assert "config_overrides" not in job_defaults(given | {"preset": "dino_vits16"})
    assert job_defaults(given | {"dataset": "photos", "preset": None}) == {}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--preset", "mae_vit_base"), ("mae_vit_base is no suite_dino: choose dino_vits8, dino_vits16",)),
        (("--teacher_momentum", "1.5"), ("--teacher_momentum must be from 0 to 1, got 1.5",)),
        (("--initial_teacher_temperature", "0"), ("--initial_teacher_temperature must be above 0",)),
        (("--fsdp", "full_shard"), ("DINO averages whole weights, which --fsdp and --deepspeed shard",)),
        (("--centering", "mean"), ("centering must be one of center, sinkhorn_knopp, got 'mean'",)),
        (("--local_image_size", "10"), ("--local_image_size must be a multiple of patch_size 4, got 10",)),
        (("--local_crop_scale", "0.5"), ("local_crop_scale < global_crop_scale", "0.5 and 0.4")),
        (("--streaming", "--knn_steps", "2"), ("--knn_steps reads the same images", "--streaming")),
        (("--dataset", "./nowhere"), ("./nowhere", "there is no such file or folder")),
        (("--resume_from_checkpoint", "last"), ("no complete checkpoint",)),
    ],
    ids=lambda value: " ".join(value[-2:]),
)
def test_arguments_that_do_not_fit_are_one_line(pretrain, tmp_path: Path, arguments: tuple, parts: tuple):
    assert_one_line_error(pretrain(*arguments, check=False), *parts)
    assert not (tmp_path / "dino" / "model.safetensors").exists()


def test_neighbours_need_labels(run_command, tmp_path: Path):
    (tmp_path / "flat").mkdir()
    for path in (make_colours(tmp_path / "colours", images_a_class=4) / "red").iterdir():
        path.rename(tmp_path / "flat" / path.name)
    result = run_command("pretrain", "dino", "--dataset", str(tmp_path / "flat"), "--knn_steps", "5", check=False)
    assert_one_line_error(result, "--knn_steps needs labels", "flat")
