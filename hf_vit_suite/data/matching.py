"""Finds the files that a table names."""

import os
import unicodedata
from collections.abc import Iterable


class FileNames:
    """The image files of a folder by name, as tables from other systems write them.

    A name is looked up as it is written, then with slashes for backslashes, then with Unicode's composed characters
    (NFC), and last without regard to case, where that is unique.

    Args:
        folder: Absolute path of the folder.
        names: Relative names of its images.
    """

    def __init__(self, folder: str, names: Iterable[str]):
        self.folder = folder
        self.exact = set(names)
        self.composed: dict[str, list[str]] = {}
        self.folded: dict[str, list[str]] = {}
        for name in self.exact:
            composed = unicodedata.normalize("NFC", name)
            self.composed.setdefault(composed, []).append(name)
            self.folded.setdefault(composed.casefold(), []).append(name)

    def find(self, written: str, below: str) -> str | None:
        """Finds a file.

        Args:
            written: Its name in a table: absolute, or relative to the table's folder.
            below: The table's folder, relative to `folder`.

        Returns:
            Its relative name, or an absolute path to a file elsewhere; None if there is no such image.
        """
        for name in dict.fromkeys((written, written.strip(), written.strip().replace("\\", "/"))):
            if os.path.isabs(name):
                inside = os.path.relpath(name, self.folder)
                found = self.in_folder(inside) or (name if os.path.isfile(name) else None)
            else:
                relative = os.path.normpath(os.path.join(below, name))
                outside = os.path.normpath(os.path.join(self.folder, relative))
                found = outside if relative.startswith("../") and os.path.isfile(outside) else self.in_folder(relative)
            if found is not None:
                return found
        return None

    def in_folder(self, name: str) -> str | None:
        """Finds a file by its relative name."""
        if name in self.exact:
            return name
        composed = unicodedata.normalize("NFC", name)
        for names in (self.composed.get(composed, []), self.folded.get(composed.casefold(), [])):
            if len(names) == 1:
                return names[0]
        return None
