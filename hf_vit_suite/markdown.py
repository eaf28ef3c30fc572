"""Names and commands in Markdown, shown letter by letter."""

import re


def plain(text: str) -> str:
    """Text without markup, on one line, which may stand in a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>&#|~$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as code within a line."""
    fence = fence_around(text, at_least=1)
    padding = " " if len(fence) > 1 else ""
    return f"{fence}{padding}{' '.join(text.split())}{padding}{fence}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code."""
    fence = fence_around(text, at_least=3)
    return f"{fence}{language}\n{text}\n{fence}"


def fence_around(text: str, at_least: int) -> str:
    """More backticks than stand in a row in a text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(at_least, longest + 1)
