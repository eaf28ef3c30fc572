"""What every recipe does alike, as a command and as a call: run, resume, distribute, refuse, publish."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from PIL import Image
from recipes import QUICK, TINY_RECIPES, TinyRecipe
from references_of_training import (
    assert_moved_alike,
    assert_one_line_error,
    losses,
    report,
    save_tiny_classifier,
    training_log,
    weights,
)

import hf_vit_suite
from hf_vit_suite.cli import main
from hf_vit_suite.commands.training import parse
from hf_vit_suite.training.recipe import RECIPES, load_recipe

every_recipe = pytest.mark.parametrize("recipe", TINY_RECIPES, ids=lambda recipe: recipe.name)
pretraining = pytest.mark.parametrize("recipe", TINY_RECIPES[1:], ids=lambda recipe: recipe.name)


def call(recipe: TinyRecipe, **options: Any) -> hf_vit_suite.finetune:
    """Trains by the Python API."""
    function, *arguments = recipe.verb
    return getattr(hf_vit_suite, function)(*arguments, **recipe.options, **options)


def test_every_recipe_has_a_tiny_form():
    assert [recipe.name for recipe in TINY_RECIPES] == list(RECIPES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained model of each recipe, by its name, and the images."""
    folder = tmp_path_factory.mktemp("trained")
    for recipe in TINY_RECIPES:
        data = recipe.data(folder / f"data-{recipe.name}")
        options = {"dataset": data, "output_dir": folder / recipe.name, "learning_rate": recipe.learning_rate}
        assert main(recipe.command(**options, max_steps=6, save_strategy="steps", save_steps=3)) == 0
    return folder


@every_recipe
def test_folder_holds_model_code_metrics_figures_and_a_card_with_the_command(recipe: TinyRecipe, trained: Path):
    folder = trained / recipe.name
    assert {path.name for path in folder.iterdir() if not path.name.startswith("checkpoint-")} == recipe.all_results
    written = report(folder)
    assert written["steps"] == 6
    assert written["images"]["train"] == (36 if recipe.name != "finetune" else 30)
    assert written["reload"]["difference"] < 1e-5
    card = ModelCard.load(folder / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", recipe.pipeline_tag)
    assert f"hf-vit-suite {' '.join(recipe.verb)} --per_device_train_batch_size 8" in card.text
    measured = written["metrics"]["test"]["accuracy"] if recipe.name == "finetune" else written["metrics"]["loss"]
    assert f"{measured:.4f}" in card.text
    assert all(f"]({name})" in card.text for name in recipe.all_results if name.endswith(".png"))


FRESH_PROCESS = """
import sys
import hf_vit_suite, torch, transformers
for argument in sys.argv[1:]:
    auto_class, folder = argument.split("=")
    model = getattr(transformers, auto_class).from_pretrained(folder)
    state = dict(transformers.AutoModel.from_pretrained(folder).state_dict())
    assert type(model).__module__.startswith("hf_vit_suite.models."), type(model)
    assert len(state) > 10
"""


def test_folders_open_in_a_fresh_process_without_a_warning(trained: Path, run_python):
    folders = [f"{recipe.auto_class}={trained / recipe.name}" for recipe in TINY_RECIPES]
    errors = run_python("-c", FRESH_PROCESS, *folders).stderr
    assert "not initialized" not in errors
    assert "not used" not in errors


@every_recipe
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(recipe: TinyRecipe, trained: Path, tmp_path: Path):
    unbroken, folder = trained / recipe.name, tmp_path / "resumed"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / "checkpoint-6")
    for name in recipe.all_results:
        (folder / name).unlink()
    (folder / "checkpoint-9").mkdir()  # cut off while it was saved
    code = main(
        recipe.command(
            dataset=trained / f"data-{recipe.name}",
            output_dir=folder,
            learning_rate=recipe.learning_rate,
            max_steps=6,
            save_strategy="steps",
            save_steps=3,
            resume_from_checkpoint="last",
        )
    )
    assert code == 0
    assert_moved_alike(weights(folder), weights(unbroken), start=weights(unbroken / "checkpoint-3"))
    (folder / "checkpoint-9").rmdir()
    assert losses(folder) == pytest.approx(losses(unbroken), rel=1e-4)


@every_recipe
def test_two_processes_train_to_the_weights_of_one(recipe: TinyRecipe, run_python, tmp_path: Path):
    data = recipe.data(tmp_path / "data")
    common = {"dataset": data, "max_steps": 3, "optim": "sgd", "learning_rate": 0.1, "dataloader_drop_last": True}
    common |= {
        "finetune": {"balanced_sampling": True},
        "dino": {"teacher_momentum": 0.5},
        "clip": {"cached_batch_size": 3},
    }.get(recipe.name, {})
    assert main(recipe.command(**common, output_dir=tmp_path / "one", per_device_train_batch_size=16)) == 0
    run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hf_vit_suite",
        *recipe.command(**common, output_dir=tmp_path / "two", ddp_backend="gloo"), OMP_NUM_THREADS="1",
    )  # fmt: skip
    one, two = (training_log(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "teacher_entropy", "center_divergence", "in_batch_accuracy", "temperature"):
        found, expected = ([entry[name] for entry in log if name in entry] for log in (two, one))
        assert found == pytest.approx(expected, rel=1e-5), name
    expected = weights(tmp_path / "one")
    for name, weight in weights(tmp_path / "two").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6, msg=name)
    assert_close_metrics(report(tmp_path / "two")["metrics"], report(tmp_path / "one")["metrics"])


def assert_close_metrics(found: dict, expected: dict) -> None:
    """Nested metrics agree."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_close_metrics(found[name], value)
        else:
            assert found[name] == pytest.approx(value, rel=1e-3), name


@every_recipe
def test_streams_train_in_bfloat16_with_checkpointing_and_accumulation(
    recipe: TinyRecipe, run_command, tmp_path: Path
):
    data = recipe.data(tmp_path / "data")
    common = {"dataset": data, "output_dir": tmp_path / "out", "streaming": True}
    assert_one_line_error(run_command(*recipe.command(**common), check=False), "--max_steps")
    run_command(
        *recipe.command(
            **common, max_steps=3, bf16=True, activation_checkpointing=True, gradient_accumulation_steps=2,
            save_strategy="steps",
        )
    )  # fmt: skip
    assert report(tmp_path / "out")["steps"] == 3
    assert report(tmp_path / "out")["images"].get("train") is None
    assert all(torch.tensor(losses(tmp_path / "out")).isfinite())
    # Nothing of the mixed precision stays for the next run in this process.
    run_command(*recipe.command(**common, max_steps=1, overwrite_output_dir=True))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


@every_recipe
def test_call_trains_as_the_command_does_and_the_card_shows_the_call(
    recipe: TinyRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # As in a notebook's kernel.
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
    monkeypatch.delenv("HF_TOKEN", raising=False)
    environment = dict(os.environ)
    data = recipe.data(tmp_path / "data")
    quick = QUICK | {"max_steps": 2, "seed": 3}
    result = call(recipe, dataset=data, output_dir=tmp_path / "call", hub_token="hf_secret", **quick)
    assert main(recipe.command(**quick, dataset=data, output_dir=tmp_path / "command")) == 0
    expected = weights(tmp_path / "command")
    for name, weight in weights(tmp_path / "call").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    assert result.output_dir == tmp_path / "call"
    assert result.metrics == report(result.output_dir)["metrics"]
    assert_close_metrics(result.metrics, report(tmp_path / "command")["metrics"])
    assert not result.model.training
    assert type(result.model) is type(getattr(transformers, recipe.auto_class).from_pretrained(result.output_dir))
    card = ModelCard.load(result.output_dir / "README.md").text
    assert f"# called from Python\nhf_vit_suite.{recipe.verb[0]}(" in card
    assert "seed=3" in card
    for hidden in ("hf_secret", "ipykernel", "kernel.json", "use_cpu=None", f"hf-vit-suite {recipe.verb[0]} --"):
        assert hidden not in card
    saved = b"".join(path.read_bytes() for path in result.output_dir.rglob("*") if path.is_file())
    assert b"hf_secret" not in saved
    assert "HF_TOKEN" not in os.environ
    assert {name: os.environ[name] for name in environment} == environment
    quick["max_steps"] = 4
    resumed = call(recipe, dataset=data, output_dir=tmp_path / "call", resume_from_checkpoint=True, **quick)
    assert resumed.report["steps"] == 4


@every_recipe
def test_folder_that_holds_a_model_is_refused_and_stays_as_it_was(recipe: TinyRecipe, run_command, tmp_path: Path):
    data, folder = recipe.data(tmp_path / "data"), save_tiny_classifier(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = recipe.command(dataset=data, output_dir=folder, max_steps=1, save_strategy="no")
    assert_one_line_error(run_command(*command, check=False), "holds a model already", "--overwrite_output_dir")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    run_command(*command, "--overwrite_output_dir")
    assert report(folder)["steps"] == 1


@pretraining
def test_checkpoint_of_another_family_is_refused(recipe: TinyRecipe, run_command, tmp_path: Path):
    classifier = save_tiny_classifier(tmp_path / "classifier")
    data, out = recipe.data(tmp_path / "data"), tmp_path / "out"
    result = run_command(*recipe.verb, "--model", str(classifier), "--dataset", str(data), "--output_dir", str(out),
                         "--per_device_train_batch_size", "8", "--use_cpu", check=False)  # fmt: skip
    assert_one_line_error(result, f"is no suite_{recipe.name} but a suite_vit")
    assert not (tmp_path / "out" / "config.json").exists()


@every_recipe
def test_unreadable_images_are_counted_or_stop_the_run(recipe: TinyRecipe, run_command, tmp_path: Path):
    data = recipe.data(tmp_path / "data")
    (data / "red" / "3.png").write_bytes(b"")
    whole = {"num_train_epochs": 1, "per_device_train_batch_size": 12}
    command = recipe.command(dataset=data, output_dir=tmp_path / "out", save_strategy="no", **whole)
    strict = run_command(*command, "--strict_images", check=False)
    assert_one_line_error(strict, "3.png is no readable image")
    run_command(*command)
    assert len(report(tmp_path / "out")["skipped_images"]) == 1
    assert "1 unreadable images were left out" in (tmp_path / "out" / "README.md").read_text()


@every_recipe
def test_run_says_what_it_read_and_options_choose_the_splits(recipe: TinyRecipe, run_command, tmp_path: Path):
    for split in ("Alpha", "Beta", "extra"):
        recipe.data(tmp_path / "photos" / split)
    (tmp_path / "photos" / "more.zip").touch()
    options = {
        "dataset": tmp_path / "photos",
        "output_dir": tmp_path / "out",
        "split_names": ["train=Beta", "test=Alpha"],
        "dataloader_num_workers": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 1,
        "save_strategy": "no",
    }
    said = run_command(*recipe.command(**options)).stderr
    found = report(tmp_path / "out")
    assert found["data"]["summary"] in said
    assert found["data"]["ignored"]["no images"] == {"files": 1, "first": ["more.zip"]}
    assert found["data"]["ignored"]["outside the named splits"]["files"] == 36
    assert found["images"]["train"] == (33 if recipe.name == "finetune" else 36)
    assert "36 train" in found["data"]["summary"]


@every_recipe
def test_help_is_grouped_and_short_and_the_rest_is_in_help_all(
    recipe: TinyRecipe, run_command, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "110")  # as into a pipe
    shown = run_command(*recipe.verb, "--help").stdout
    assert len(shown.splitlines()) < 100
    for title in ("model:", "data:", "augmentation:", "optimisation:", "saving and publishing:"):
        assert f"\n{title}\n" in shown
    for name in ("--dataset", "--learning_rate", "--gradient_accumulation_steps", "--output_dir", "--push_to_hub"):
        assert f"\n  {name}" in shown
    everything = run_command(*recipe.verb, "--help-all").stdout
    assert "--adam_beta1" in everything
    assert "--adam_beta1" not in shown
    names = {name for kind in load_recipe(recipe.name).kinds for name in kind.__dataclass_fields__}
    assert [name for name in names if f"--{name}" not in everything] in ([], ["_n_gpu"])


@every_recipe
def test_unknown_options_are_refused_with_the_nearest_name(recipe: TinyRecipe, run_command, tmp_path: Path):
    (tmp_path / "run.yaml").write_text("max_stepz: 3\n")
    result = run_command(*recipe.command(), "--config", str(tmp_path / "run.yaml"), check=False)
    assert_one_line_error(result, "unknown arguments: max_stepz: did you mean max_steps?", "run.yaml")
    with pytest.raises(ValueError, match=r"unknown arguments: learning_rat: did you mean learning_rate\?"):
        call(recipe, learning_rat=1)
    assert run_command(*recipe.verb, "--no_such_argument", "1", check=False).returncode == 2


# Each alone, with the defaults of the data set that comes with the package.
ALONE = {
    "finetune": ("save_strategy=no", "eval_strategy=no", "save_strategy=steps", "eval_strategy=steps", "save_steps=7",
                 "metric_for_best_model=loss", "lora=true", "linear_probe=true", "model=vit"),
    "mae": ("save_strategy=no", "streaming=true", "learning_rate=0.1", "preset=mae_vit_base"),
    "dino": ("save_strategy=no", "streaming=true", "lr_scheduler_type=linear", "preset=dino_vits16"),
    "clip": ("save_strategy=no", "tokenizer=x", "preset=clip_vit_b_32", "image_tower=x"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "flag"), [(name, flag) for name, flags in ALONE.items() for flag in flags])
def test_single_flag_never_fails_because_of_a_default(name: str, flag: str, tmp_path: Path):
    option, value = flag.split("=")
    if value == "vit":
        value = str(save_tiny_classifier(tmp_path / "vit"))
    arguments = parse(load_recipe(name), [f"--{option}", value, "--use_cpu"])
    if name == "finetune":
        training = arguments.training
        is_matched = training.save_strategy == training.eval_strategy != "no"
        assert training.load_best_model_at_end == is_matched
    if flag == "streaming=true" and name == "dino":
        assert arguments.method.knn_steps == 0
    if flag == "image_tower=x":
        assert "vision_config" not in arguments.model.config_overrides
        assert "text_config" in arguments.model.config_overrides


def output_size(folder: Path) -> tuple[tuple[int, int], float]:
    """What a folder's image processor yields for a tall white image: (height, width), and its darkest pixel."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(Image.new("RGB", (20, 90), "white"), return_tensors="pt", do_normalize=False).pixel_values
    return tuple(pixels.shape[-2:]), pixels.min().item()


@every_recipe
def test_oblong_models_are_trained_saved_and_continued_at_other_sizes(recipe: TinyRecipe, tmp_path: Path):
    data, first, second = recipe.data(tmp_path / "data"), tmp_path / "first", tmp_path / "second"
    quick = {"dataset": data, "max_steps": 2}
    assert main(recipe.command(**quick, output_dir=first, image_size="16x32")) == 0
    assert output_size(first) == ((16, 32), 1), "nothing is padded"
    config = json.loads((first / "config.json").read_text())
    assert config.get("vision_config", config)["image_size"] == [16, 32]
    assert report(first)["reload"]["difference"] < 1e-5
    continued = {name: value for name, value in recipe.options.items() if name == "local_crops"}
    function, *arguments = recipe.verb
    result = getattr(hf_vit_suite, function)(
        *arguments, **QUICK, **quick, **continued, model=first, output_dir=second, image_size=(24, 8)
    )
    assert output_size(second) == ((24, 8), 1)
    assert result.report["reload"]["difference"] < 1e-5
    assert {path.name for path in second.glob("*.png")} == {path.name for path in first.glob("*.png")}


@every_recipe
@pytest.mark.parametrize(
    ("given", "expected"),
    [("[48, 64]", [48, 64]), ("48x64", [48, 64]), ("'48 X 64'", [48, 64]), ("48", 48), ("'48x48'", 48)],
)
def test_image_size_of_a_config_file_is_a_list_a_text_or_a_number(
    recipe: TinyRecipe, tmp_path: Path, given: str, expected: int | list[int]
):
    file = tmp_path / "run.yaml"
    file.write_text(f"image_size: {given}\n")
    assert parse(load_recipe(recipe.name), ["--config", str(file), "--use_cpu"]).model.image_size == expected
    flags = ["--config", str(file), "--image_size", "32x80", "--use_cpu"]
    assert parse(load_recipe(recipe.name), flags).model.image_size == [32, 80]


@every_recipe
@pytest.mark.parametrize("size", ["18x32", "16x30", "2x16"])
def test_sizes_that_are_no_multiples_of_the_patch_size_are_refused_before_training(
    recipe: TinyRecipe, run_command, trained: Path, tmp_path: Path, size: str
):
    expected = ("image_size must be a multiple of patch_size 4", f"got {size.replace('x', ' x ')} pixels")
    common = {"dataset": trained / f"data-{recipe.name}", "output_dir": tmp_path / "out", "image_size": size}
    assert_one_line_error(run_command(*recipe.command(**common), check=False), *expected)
    function = [*recipe.verb, "--model", str(trained / recipe.name), "--use_cpu", "--per_device_train_batch_size", "8"]
    flags = [part for name, value in common.items() for part in (f"--{name}", str(value))]
    assert_one_line_error(run_command(*function, *flags, check=False), *expected)
    assert not (tmp_path / "out").exists()


@every_recipe
def test_config_file_gives_arguments_that_flags_override(recipe: TinyRecipe, tmp_path: Path):
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-3\nseed: 7\nconfig_overrides:\n  projection_dim: 8\n  image_size: [16, 24]\n")
    arguments = parse(load_recipe(recipe.name), ["--config", str(file), "--seed", "2", "--use_cpu"])
    assert (arguments.training.learning_rate, arguments.training.seed) == (1e-3, 2)
    assert arguments.model.config_overrides == {"projection_dim": 8, "image_size": [16, 24]}
    assert arguments.call.startswith(f"hf-vit-suite {' '.join(recipe.verb)} --config")
