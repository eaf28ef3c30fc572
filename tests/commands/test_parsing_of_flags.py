"""Flags, files of arguments and help, as every command reads them."""

import json
from pathlib import Path

import pytest
from recipes import TINY_RECIPES
from references_of_training import assert_one_line_error

from hf_vit_suite.commands.parsing import GroupedParser
from hf_vit_suite.commands.training import parse
from hf_vit_suite.config_overrides import parse_overrides
from hf_vit_suite.evaluation.evaluate import EVALUATIONS
from hf_vit_suite.training.recipe import load_recipe

FINETUNE = TINY_RECIPES[0].command(dataset="photos", output_dir="out")[1:]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--load_best_model_at_end"], True),
        (["--no_load_best_model_at_end"], False),
        (["--load_best_model_at_end", "False"], False),
        (["--save_strategy", "best"], True),
        (["--save_strategy", "steps", "--eval_strategy", "steps", "--eval_steps", "0.1"], False),
        (["--save_strategy", "steps", "--eval_strategy", "steps", "--eval_steps", "50", "--save_steps", "100"], True),
        (["--save_strategy", "no"], False),
        ([], True),
    ],
)
def test_best_checkpoint_follows_from_flag_or_strategies(flags: list[str], expected: bool):
    assert parse(load_recipe("finetune"), [*FINETUNE, *flags]).training.load_best_model_at_end is expected


@pytest.mark.parametrize("flag", ["--bf16", "--random_weights", "--strict_images"])
def test_bare_flag_before_the_model_leaves_it_alone(flag: str):
    parser = GroupedParser({"options": EVALUATIONS["knn"][0]}, "evaluate knn", "")
    parser.add_argument("model")
    given = parser.parse_args([flag, "outputs/mae", "--dataset", "photos"])
    assert given.model == "outputs/mae"
    assert getattr(given, flag[2:]) is True


def test_evaluation_takes_its_model_behind_a_flag_and_its_data_from_a_file(run_command, tmp_path: Path):
    (tmp_path / "run.yaml").write_text("dataset: nowhere/at/all\nstrict_images: true\n")
    for command in (["knn", "--bf16", "gone"], ["retrieval", "--config", str(tmp_path / "run.yaml"), "gone"]):
        assert_one_line_error(run_command("evaluate", *command, check=False), "gone")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"distillation": "sofft"}, "distillation"),
        ({"lora_rank": 2.5}, "lora_rank must be an integer, got 2.5"),
        ({"linear_probe": 3}, "linear_probe must be True or False, got 3"),
        ({"crop_scale": [1]}, "crop_scale must be a number"),
    ],
)
def test_values_of_a_file_are_checked_as_those_of_a_call(values: dict, message: str, tmp_path: Path, run_command):
    (tmp_path / "run.json").write_text(json.dumps(values))
    failed = run_command("finetune", "--config", str(tmp_path / "run.json"), *FINETUNE, check=False)
    assert_one_line_error(failed, message)
    assert "run.json" in failed.stderr


def test_numbers_that_yaml_reads_as_text_and_single_texts_are_taken(tmp_path: Path):
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-3\ncaption_templates: a photo of a {}.\n")
    arguments = TINY_RECIPES[3].command(dataset="photos", output_dir="out", config=tmp_path / "run.yaml")[2:]
    given = parse(load_recipe("clip"), arguments)
    assert given.training.learning_rate == 1e-3
    assert given.data.caption_templates == ["a photo of a {}."]


@pytest.mark.parametrize(("verb", "shown"), [("mae", "--base_learning_rate"), ("finetune", "--class_weights")])
def test_help_shows_the_recipes_own_options_and_errors_show_no_list(verb: str, shown: str, run_command):
    command = ["finetune"] if verb == "finetune" else ["pretrain", verb]
    assert shown in run_command(*command, "--help").stdout
    failed = run_command(*command, "--no_such_flag", check=False)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) <= 3


def test_overrides_of_the_caller_stay_as_they_are():
    given = {"vision_config": {"patch_size": 8}}
    parse_overrides(given)["vision_config"]["image_size"] = 64
    assert given == {"vision_config": {"patch_size": 8}}
