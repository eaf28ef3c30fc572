"""`hf-vit-suite predict MODEL IMAGE...`."""

import argparse
import json
import sys
from collections.abc import Sequence

from ..inference import DEFAULT_TEMPLATE
from ..names import visible


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite predict", description="Classifies images.")
    parser.add_argument("model", help="folder or Hub name of a classifier, or with --labels of a CLIP")
    parser.add_argument("images", nargs="+", metavar="image", help="image files")
    parser.add_argument("--top_k", type=positive, default=5, help="labels per image (default 5)")
    parser.add_argument("--labels", help="zero-shot labels for a CLIP, with commas between")
    parser.add_argument(
        "--template", default=DEFAULT_TEMPLATE, help="for a CLIP: text in which {} is a label (default %(default)r)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Classifies images; returns 1 if one of them can't be read."""
    parsed = build_parser().parse_args(arguments)
    from ..inference.prediction import predict

    predictions = predict(
        parsed.model, parsed.images, top_k=parsed.top_k, labels=parsed.labels, template=parsed.template
    )
    classified = [prediction for prediction in predictions if "labels" in prediction]
    if parsed.json:
        print(json.dumps(classified, indent=2))
    else:
        print_predictions(classified)
    problems = [prediction["error"] for prediction in predictions if "error" in prediction]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def print_predictions(predictions: Sequence[dict]) -> None:
    """Predictions as a table, the labels of an image below one another."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE)
    table.add_column("image", overflow="fold")
    table.add_column("label", overflow="fold")
    values = any("value" in entry for prediction in predictions for entry in prediction["labels"])
    table.add_column("value" if values else "probability", justify="right")
    has_thresholds = any("predicted" in entry for prediction in predictions for entry in prediction["labels"])
    if has_thresholds:
        table.add_column("predicted")
    for prediction in predictions:
        name = visible(prediction["image"])
        for entry in prediction["labels"]:
            score = f"{entry['value']:.4g}" if values else f"{entry['probability']:.4f}"
            marks = ["yes" if entry["predicted"] else ""] if has_thresholds else []
            table.add_row(name, visible(entry["label"]), score, *marks)
            name = ""
        table.add_section()
    # Names are no markup: neither [bold] nor :smile: in them means anything.
    Console(markup=False, emoji=False).print(table)
