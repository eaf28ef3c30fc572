"""The command `hf-vit-suite`: one subcommand a job, each importing what it needs when it runs."""

import argparse
import json
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from .argument_types import DEFAULT_TEMPLATE, positive
from .version import __version__

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

EXPLAIN_METHODS = {
    "attention": "of the class token (default)",
    "rollout": "attention followed through the layers",
    "relevance": "of a class or text (default with --text)",
    "gradient": "attention times its gradient",
    "similarity": "of all patches to the one at --point",
    "pca": "main directions of the patches of all images as colours",
    "mask": "the patches that hold --mass of the attention",
    "reconstruction": "what a masked autoencoder paints where it can't see",
}
EXPLAIN_OPTIONS = ("target", "layer", "head", "fusion", "discard_ratio", "point", "mass")


def run_models(arguments: argparse.Namespace) -> int:
    """Prints the table of architectures."""
    from .tables import preset_rows, print_presets

    rows = preset_rows(arguments.match)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_presets(rows)
    return 0


def run_predict(arguments: argparse.Namespace) -> int:
    """Classifies images."""
    from .evaluation.zero_shot import split_names
    from .prediction import predict
    from .tables import print_predictions

    labels = split_names(arguments.labels) if arguments.labels is not None else None
    predictions, unreadable = predict(arguments.model, arguments.images, arguments.top_k, labels, arguments.template)
    if arguments.json:
        print(json.dumps(predictions, indent=2))
    else:
        print_predictions(predictions)
    for problem in unreadable:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_FAILED if unreadable else 0


def run_explain(arguments: argparse.Namespace) -> int:
    """Draws what a model looks at, over pictures at their own resolution and side by side."""
    from .explanation import explain_files

    options = {name: getattr(arguments, name) for name in EXPLAIN_OPTIONS}
    options["texts"] = arguments.text
    written = explain_files(
        arguments.model, arguments.images, arguments.out, arguments.method, arguments.format, **options
    )
    for path in written:
        print(f"wrote {path}")
    return 0


def run_finetune(arguments: argparse.Namespace) -> int:
    """Fine-tunes a classifier."""
    from .training.finetune import run

    run(arguments.rest)
    return 0


def run_pretrain_mae(arguments: argparse.Namespace) -> int:
    """Pretrains a masked autoencoder."""
    from .training.mae import run

    run(arguments.rest)
    return 0


def run_pretrain_dino(arguments: argparse.Namespace) -> int:
    """Pretrains by self-distillation."""
    from .training.dino import run

    run(arguments.rest)
    return 0


def run_pretrain_clip(arguments: argparse.Namespace) -> int:
    """Trains an image tower and a text tower on images with captions."""
    from .training.clip import run

    run(arguments.rest)
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measures features, a classifier or a CLIP."""
    from .evaluation.command import run

    run(arguments.rest)
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Converts reference weights, or writes a model in a reference's layout."""
    from .conversion.command import run

    run(arguments.rest)
    return 0


# Their own parsers read their arguments; the options of transformers take seconds to import.
WITH_OWN_PARSER = (run_finetune, run_pretrain_mae, run_pretrain_dino, run_pretrain_clip, run_evaluate, run_convert)


def build_parser() -> argparse.ArgumentParser:
    """The parser of every subcommand."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite", description="Vision transformers the Hugging Face way.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], help_text: str, **options) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help_text, description=run.__doc__, **options)
        command.set_defaults(run=run)
        return command

    add("finetune", run_finetune, "fine-tune an image classifier; --help lists its options", add_help=False)

    pretrain = commands.add_parser("pretrain", help="pretrain an encoder, without labels or on captions")
    methods = pretrain.add_subparsers(title="methods", required=True, metavar="METHOD")
    for name, run, help_text in (
        ("mae", run_pretrain_mae, "masked autoencoder"),
        ("dino", run_pretrain_dino, "self-distillation"),
        ("clip", run_pretrain_clip, "images with captions"),
    ):
        method = methods.add_parser(name, help=f"{help_text}; --help lists its options", add_help=False)
        method.set_defaults(run=run)

    add("evaluate", run_evaluate, "measure features, a classifier or a CLIP; --help lists the ways", add_help=False)

    add("convert", run_convert, "reference weights to a model, or back; --help lists the options", add_help=False)

    predict = add("predict", run_predict, "classify images")
    predict.add_argument("model", help="folder or Hub name of a classifier, or with --labels of a CLIP")
    predict.add_argument("images", nargs="+", metavar="image", help="image files")
    predict.add_argument("--top_k", type=positive, default=5, help="labels shown an image (default 5)")
    predict.add_argument("--labels", help="for CLIP: what to tell the images by, with commas between")
    predict.add_argument(
        "--template", default=DEFAULT_TEMPLATE, help="for CLIP: text in which {} is a label (default %(default)r)"
    )
    predict.add_argument("--json", action="store_true", help="print JSON in place of a table")

    add_explain_arguments(add("explain", run_explain, "draw what a model looks at"))

    models = add("models", run_models, "list the architectures")
    models.add_argument("match", nargs="?", default="", help="only names that contain this")
    models.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def add_explain_arguments(explain: argparse.ArgumentParser) -> None:
    """The arguments of `explain`; which options a method takes, the method itself checks."""
    explain.add_argument("model", help="folder or Hub name of a model of the suite, or transformers' ViT, DeiT, ...")
    explain.add_argument("images", nargs="+", metavar="image", help="image files of any size")
    explain.add_argument(
        "--out",
        required=True,
        type=Path,
        help="file for a figure of all images, e.g. attention.png, or folder for each image's map over it",
    )
    explain.add_argument("--format", choices=("png", "svg", "npy", "gif"), help="default --out's suffix, else png")
    explain.add_argument(
        "--method", choices=tuple(EXPLAIN_METHODS), help="; ".join(f"{k}: {v}" for k, v in EXPLAIN_METHODS.items())
    )
    asked = explain.add_mutually_exclusive_group()
    asked.add_argument("--target", help="relevance, gradient: name or number of a class (default the predicted one)")
    asked.add_argument("--text", nargs="+", help="relevance, gradient: for CLIP, what each match with a text rests on")
    explain.add_argument("--layer", type=int, help="from 0, negative ones from the end; relevance: the first gathered")
    explain.add_argument("--head", type=int, help="attention, gradient, mask: one head, from 0 (default their mean)")
    explain.add_argument("--fusion", choices=("mean", "max", "min"), help="rollout: over the heads (default mean)")
    explain.add_argument("--discard_ratio", type=float, help="rollout: share of smallest weights dropped (default 0)")
    explain.add_argument(
        "--point", type=float, nargs=2, metavar=("X", "Y"), help="similarity: share of width and height (default 0.5)"
    )
    explain.add_argument("--mass", type=float, help="mask: share of the attention that is kept (default 0.6)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or 1 where it failed; argparse itself exits with 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    parser = build_parser()
    parsed, rest = parser.parse_known_args(arguments)
    if rest and parsed.run not in WITH_OWN_PARSER:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    parsed.rest = rest
    try:
        code = parsed.run(parsed)
        leave_process_group()
        return code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if parsed.debug:
            traceback.print_exc()
        else:
            print(f"error: {one_line(error)}", file=sys.stderr)
        return EXIT_FAILED


def leave_process_group() -> None:
    """Waits for the other processes that a launcher started, then leaves their group.

    A process that exits while another one still saves can abort in its threads, and the launcher then stops them all.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def one_line(error: Exception) -> str:
    """What went wrong as one line; names the kind of error where that is no mistake of the user's."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, ValueError | OSError):
        return text
    return f"{type(error).__name__}: {text} (run `hf-vit-suite --debug ...` for the traceback)"
