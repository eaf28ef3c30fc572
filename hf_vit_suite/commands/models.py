"""`hf-vit-suite models [NAME]`: the table of architectures."""

import argparse
import json
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="hf-vit-suite models", description="Lists the architectures.")
    parser.add_argument("match", nargs="?", default="", help="only names that contain this")
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    parsed = parser.parse_args(arguments)
    from ..models.preset_table import preset_rows

    rows = preset_rows(parsed.match)
    if parsed.json:
        print(json.dumps(rows, indent=2))
    else:
        print_presets(rows)
    return 0


def print_presets(rows: Sequence[dict]) -> None:
    """The presets as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("M params", "GFLOPs", "image", "patch", "width", "depth", "heads"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['gflops']:.2f}",
            *(str(row[name]) for name in ("image_size", "patch_size", "width", "depth", "heads")),
        )
    Console().print(table)
    print("GFLOPs are billions of multiply-adds of the encoder for one image, as papers count them.")
