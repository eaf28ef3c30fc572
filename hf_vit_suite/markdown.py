"""Escapes names and commands so that Markdown shows them literally."""

import re


def plain(text: str) -> str:
    """Escaped text on one line, which also fits a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>&#|~$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """An inline code span."""
    fence = fence_around(text, at_least=1)
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{' '.join(text.split())}{padding}{fence}"


def code_block(text: str, language: str = "") -> str:
    """A fenced code block."""
    fence = fence_around(text, at_least=3)
    return f"{fence}{language}\n{text}\n{fence}"


def fence_around(text: str, at_least: int) -> str:
    """A fence of more backticks than the longest run of them in a text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)
