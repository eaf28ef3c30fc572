"""What the parsers of several commands share."""

import pytest

from hf_vit_suite.commands.parsing import command_line

TOKEN = "hf_secret"


@pytest.mark.parametrize("form", [["--hub_token", TOKEN], [f"--hub-token={TOKEN}"], ["--hub_t", TOKEN]])
def test_command_line_shows_no_token_however_it_is_given(form: list[str]):
    shown = command_line("pretrain mae", ["--dataset", "my data", *form], TOKEN)
    assert shown.startswith("hf-vit-suite pretrain mae --dataset 'my data' ")
    assert TOKEN not in shown


def test_evaluation_takes_a_file_of_arguments_and_shows_no_training_options(run_command, tmp_path):
    shown = run_command("evaluate", "linear", "--help").stdout
    assert "--pooling {default,cls,mean}" in shown
    assert "--help-all" not in shown
    (tmp_path / "run.yaml").write_text("dataset: ./nowhere\n")
    result = run_command("evaluate", "knn", "model", "--config", "run.yaml", check=False)
    assert "there is no such file or folder" in result.stderr.strip().splitlines()[-1]
