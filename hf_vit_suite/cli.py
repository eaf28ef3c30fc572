"""The command `hf-vit-suite`: finds the verb's file in `commands/`, and turns errors into one line."""

import argparse
import importlib
import io
import logging
import sys
import traceback
from collections.abc import Sequence

from .commands import COMMANDS
from .names import visible
from .version import __version__

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or 1 if it failed; argparse itself exits with 2."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite", description="Vision transformers the Hugging Face way.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    verbs = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="verb")
    for name, text in COMMANDS.items():
        verbs.add_parser(name, help=text, add_help=False)
    parsed, rest = parser.parse_known_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal can't encode fails no finished run
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = importlib.import_module(f".commands.{parsed.verb}", __package__).run(rest)
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
    """Waits for the other processes of a distributed run, then leaves their group.

    A process that exits while another one saves can abort in its threads, and the launcher then stops them all.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def one_line(error: Exception) -> str:
    """What went wrong as one line; names the kind of error if it is not the user's."""
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # a DataLoader's report of its worker's error
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    text = visible(" ".join(text.split())) or "no message"
    if isinstance(error, ValueError | OSError):
        return text
    return f"{type(error).__name__}: {text} (run `hf-vit-suite --debug ...` for the traceback)"
