"""What `finetune` and `pretrain` share: from a command line to the arguments of a recipe."""

from collections.abc import Sequence

from ..training.recipe import Recipe, RunArguments, load_recipe, train_recipe
from .parsing import OPTIMISATION, GroupedParser, command_line, config_file, read_config


def run_recipe(name: str, arguments: Sequence[str]) -> int:
    """Trains and prints the metrics."""
    recipe = load_recipe(name)
    print(train_recipe(recipe, parse(recipe, arguments)).summary)
    return 0


def parse(recipe: Recipe, arguments: Sequence[str]) -> RunArguments:
    """Reads arguments; `--config FILE` names a YAML or JSON file of them, which the command line overrides.

    Raises:
        ValueError: If the file can't be read or names an unknown argument.
        SystemExit: With code 2 for wrong arguments, as argparse does.
    """
    groups = dict(zip(("model", "data", "augmentation", OPTIMISATION), recipe.kinds, strict=True))
    parser = GroupedParser(groups, f"hf-vit-suite {recipe.name}", recipe.description)
    path = config_file(arguments)
    from_file = read_config(path, recipe.kinds) if path is not None else {}
    parser.take_defaults(from_file)
    given = parser.parse_args(arguments)
    parser.set_defaults(**recipe.job_defaults(vars(given)) | from_file)
    *parsed, _ = parser.parse_args_into_dataclasses(list(arguments), look_for_args_file=False)
    return RunArguments(*parsed, command_line(recipe.name, arguments, parsed[-1].hub_token))
