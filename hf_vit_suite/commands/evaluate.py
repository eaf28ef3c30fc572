"""`hf-vit-suite evaluate METHOD MODEL`."""

import argparse
from collections.abc import Sequence

METHODS = {
    "knn": "weighted nearest neighbours of frozen features",
    "linear": "a linear classifier on frozen features",
    "classification": "a classifier's accuracy, calibration and errors",
    "zero-shot": "zero-shot labels of a CLIP",
    "faithfulness": "whether explanations name the patches that decide",
    "retrieval": "captions retrieved by images, and images by captions",
}


def run(arguments: Sequence[str]) -> int:
    """Measures a model and prints the metrics."""
    parser = argparse.ArgumentParser(
        prog="hf-vit-suite evaluate", description="Measures features, a classifier, a CLIP or explanations."
    )
    methods = parser.add_subparsers(title="methods", required=True, metavar="METHOD", dest="method")
    for name, text in METHODS.items():
        methods.add_parser(name, help=f"{text}; --help lists its options", add_help=False)
    parsed, rest = parser.parse_known_args(arguments)
    return run_method(parsed.method, rest)


def run_method(method: str, arguments: Sequence[str]) -> int:
    """Reads the options of one method."""
    from ..evaluation.evaluate import EVALUATIONS, evaluate
    from .parsing import GroupedParser, config_file, read_config

    kind, measure = EVALUATIONS[method]
    parser = GroupedParser({"options": kind}, f"hf-vit-suite evaluate {method}", measure.__doc__)
    parser.add_argument("model", help="folder or Hub name of an image model, the suite's or transformers'")
    if (path := config_file(arguments)) is not None:
        parser.take_defaults(read_config(path, [kind]))
    given = parser.parse_args(arguments)
    options = {name: getattr(given, name) for name in kind.__dataclass_fields__}
    print(evaluate(method, given.model, **options).summary)
    return 0
