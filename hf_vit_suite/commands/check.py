"""`hf-vit-suite check DATASET`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.arguments import LayoutArguments
from ..names import visible

# The lists of a split's report, and what the table calls them.
FINDINGS = {
    "unreadable": "unreadable",
    "empty": "empty files",
    "unlabelled": "without annotation",
    "tiny": "a side below 32 pixels",
    "odd_aspect": "a side over 4 times the other",
}
GROUPS = {
    "duplicates": "groups of equal images",
    "across_splits": "of these in several splits",
    "other_labels": "of these with different labels",
}
MOST_NAMED = 5
MOST_CLASSES = 20


@dataclass
class CheckArguments(LayoutArguments):
    """Options of `check`."""

    annotations: Literal["labels", "captions", "none"] = field(
        default="labels", metadata={"help": "what the images are to have"}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "column of the labels, or several with commas; default found by type and name"}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "column of the captions; default one with a usual name"}
    )
    num_workers: int | None = field(
        default=None, metadata={"help": "processes that decode; default one a core, 0 is this process"}
    )
    output_file: str | None = field(default=None, metadata={"help": "JSON file of the whole report"})


def run(arguments: Sequence[str]) -> int:
    """Checks a data set and prints what is odd; returns 1 if an image can't be read."""
    from .parsing import GroupedParser, config_file, read_config

    parser = GroupedParser(
        {"options": CheckArguments}, "hf-vit-suite check", "Decodes every image of a data set and reports what is odd."
    )
    parser.add_argument("dataset", help="as in `finetune --dataset`")
    if (path := config_file(arguments)) is not None:
        parser.take_defaults(read_config(path, [CheckArguments]))
    parsed = parser.parse_args(arguments)
    from ..data.checking import check
    from ..data.decoding import allow_pixels
    from ..output import staged_file

    allow_pixels(parsed.max_image_pixels)
    names = set(CheckArguments.__dataclass_fields__) - {"max_image_pixels", "output_file"}
    report = check(parsed.dataset, **{name: getattr(parsed, name) for name in names})
    if parsed.output_file is not None:
        with staged_file(Path(parsed.output_file)) as path:
            path.write_text(json.dumps(report, indent=2, ensure_ascii=False), encoding="utf-8")
    print_report(report)
    return int(any(split["unreadable"] or split["empty"] for split in report["splits"].values()))


def print_report(report: Mapping[str, Any]) -> None:
    """The report as tables, and the first names of each finding."""
    from rich.console import Console

    splits = report["splits"]
    rows = {"images": [split["images"] for split in splits.values()]}
    rows |= {text: [len(split[key]) for split in splits.values()] for key, text in FINDINGS.items()}
    for side in ("width", "height"):
        rows[f"{side}, least to most"] = [" - ".join(map(str, split[side][::2])) for split in splits.values()]
    # Names are no markup: neither [bold] nor :smile: in them means anything.
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(table(list(splits), rows))
    for key, text in GROUPS.items():
        console.print(f"{len(report[key]):,} {text}")
    counts = {name: split["classes"] for name, split in splits.items() if "classes" in split}
    if labels := list(dict.fromkeys(label for classes in counts.values() for label in classes)):
        shown = labels[:MOST_CLASSES]
        console.print(
            table(list(counts), {label: [found.get(label, 0) for found in counts.values()] for label in shown})
        )
        if len(labels) > len(shown):
            console.print(f"and {len(labels) - len(shown):,} more labels")
    for split, found in splits.items():
        for key, text in FINDINGS.items():
            if names := found[key]:
                more = ", ..." if len(names) > MOST_NAMED else ""
                console.print(visible(f"{split}, {text}: {', '.join(names[:MOST_NAMED])}{more}"), soft_wrap=True)


def table(columns: Sequence[str], rows: Mapping[str, Sequence[Any]]):
    """A table of numbers."""
    from rich.box import SIMPLE
    from rich.table import Table

    found = Table("", *columns, box=SIMPLE)
    for column in found.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        found.add_row(visible(name), *(f"{value:,}" if isinstance(value, int) else value for value in values))
    return found
