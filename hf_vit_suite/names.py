"""Names are data, not markup: labels, file names, captions and prompts, as figures, lines and files show them."""

import unicodedata
from collections.abc import Collection

# Text properties of names in figures: a `$` starts no formula, and LaTeX is not run.
AS_WRITTEN = {"parse_math": False, "usetex": False}
# Control characters, halves of surrogate pairs (undecodable bytes of file names), line and paragraph separators.
INVISIBLE = ("Cc", "Cs", "Zl", "Zp")
# Embeddings, overrides and isolates, which reorder the text around a name; and what no XML, so no SVG, may hold.
REFUSED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufffe\uffff")
MOST_NAME_BYTES = 200  # file systems allow 255, part of which suffixes and numbers take


def visible(name: str, keep: str = "") -> str:
    r"""A name on one line: line breaks and control characters become escapes such as `\n` and `\x1b`.

    Args:
        name: Any text; right-to-left text, emoji and their joiners stay.
        keep: Characters that stay in any case.
    """
    return "".join(
        letter.encode("unicode_escape").decode() if is_hidden(letter) and letter not in keep else letter
        for letter in name
    )


def is_hidden(letter: str) -> bool:
    """Whether a character controls the output instead of showing."""
    return unicodedata.category(letter) in INVISIBLE or letter in REFUSED


def shortened(name: str, most: int) -> str:
    """A name of at most so many characters; the middle of a longer one becomes an ellipsis."""
    if len(name) <= most:
        return name
    return f"{name[: most - most // 2 - 1]}…{name[len(name) - most // 2 :]}"


def file_name(name: str, suffix: str, taken: Collection[str] = ()) -> str:
    """A file name for a name: `/` and control characters become `_`, a long name is cut, a taken one numbered.

    Args:
        name: Any text.
        suffix: Suffix of the file, with its dot.
        taken: File names that are in use; names that differ only in case count as equal, as on some file systems.
    """
    plain = "".join("_" if letter == "/" or is_hidden(letter) else letter for letter in name)
    stem = plain.encode()[:MOST_NAME_BYTES].decode(errors="ignore") or "_"
    in_use = {other.casefold() for other in taken}
    number, found = 1, f"{stem}{suffix}"
    while found.casefold() in in_use:
        number += 1
        found = f"{stem}-{number}{suffix}"
    return found
