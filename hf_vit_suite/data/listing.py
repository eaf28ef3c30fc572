"""Lists the files of a folder and tells what each is, by its content where the name does not tell."""

import functools
import importlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

# Formats that Pillow recognises but does not decode.
UNDECODED_FORMATS = {"BUFR", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Formats without a signature that tells them from text or any other file: they are known by their suffix alone.
UNSIGNED_FORMATS = {"EPS", "FITS", "GBR", "IM", "IMT", "MCIDAS", "MSP", "PCD", "PIXAR", "SPIDER", "TGA", "XBM", "XPM"}
# Packages that add formats to Pillow, by the suffixes of those formats.
PLUGINS = {
    "pillow_heif": (".heic", ".heif", ".hif"),
    "pillow_jxl": (".jxl",),
    "pillow_avif": (".avif", ".avifs"),
}
# Folders in which systems keep copies of their own.
SYSTEM_FOLDERS = {"@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "__MACOSX"}
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")

HIDDEN = "hidden or a system's"
NO_IMAGE = "no images"
TABLES = "tables"
ARCHIVES = "archives"
NEED_PLUGIN = "images of a format that needs a plugin of Pillow"
BROKEN_LINK = "broken links"
LISTED_BEFORE = "links to folders that are listed already"
NOT_UTF8 = "with names that are no UTF-8: rename them"


@dataclass
class Listing:
    """The files of a folder by kind; names are relative to it, with `/` between parts.

    Args:
        folder: Absolute path.
        images: Files that Pillow opens.
        tables: CSV, TSV and JSON-lines files.
        parquet: Parquet files.
        shards: `.tar` files.
        folders: Visible folders, empty ones too.
        ignored: Files that are not read, by reason.
    """

    folder: Path
    images: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    parquet: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)

    def ignore(self, reason: str, names: Iterable[str]) -> None:
        """Notes files that are not read."""
        if names := list(names):
            self.ignored.setdefault(reason, []).extend(names)

    def path(self, name: str) -> str:
        """Absolute path of a file."""
        return f"{self.folder}/{name}"


def list_folder(folder: Path) -> Listing:
    """Lists a folder recursively, sorted by name.

    Links are followed. A folder is listed once: a link to a folder of this listing, or above it, is noted instead.

    Args:
        folder: Absolute path.
    """
    listing = Listing(folder)
    listed = {os.path.realpath(folder)}
    links = list(walk(listing, "", listed))
    while links:  # real folders first, so that a link never takes the place of the folder itself
        link = links.pop(0)
        target = os.path.realpath(listing.path(link))
        if target in listed or is_above(target, listed):
            listing.ignore(LISTED_BEFORE, [link])
        else:
            listed.add(target)
            links += walk(listing, link, listed)
    kinds = (listing.images, listing.tables, listing.parquet, listing.shards, listing.folders)
    for names in (*kinds, *listing.ignored.values()):
        names.sort()
    return listing


def is_above(target: str, listed: set[str]) -> bool:
    """Whether a folder contains a listed one, so that following a link to it would lead in a circle."""
    return any(name.startswith(target.rstrip("/") + "/") for name in listed)


def walk(listing: Listing, start: str, listed: set[str]) -> Iterator[str]:
    """Lists the files below a folder and yields the links to folders that it meets."""
    below = [start]
    while below:
        here = below.pop()
        if here:
            listing.folders.append(here)
        try:
            with os.scandir(listing.path(here)) as entries:
                visible, hidden = part_hidden(sorted(entries, key=lambda entry: entry.name))
        except OSError as error:
            raise ValueError(f"{listing.path(here)} can't be read: {error.strerror}") from error
        for entry in hidden:
            listing.ignore(HIDDEN, files_below(listing.folder, joined(here, entry.name)))
        for entry in visible:
            name = joined(here, entry.name)
            if not os.path.isdir(entry.path):  # DirEntry.is_dir fails at links in a circle
                sort_file(listing, name, os.path.isfile(entry.path))
            elif entry.is_symlink():
                yield name
            else:
                listed.add(os.path.realpath(entry.path))
                below.append(name)


def joined(folder: str, name: str) -> str:
    """A relative path."""
    return f"{folder}/{name}" if folder else name


def part_hidden(entries: list[os.DirEntry]) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    """Parts visible entries from hidden ones.

    Names with a leading dot and folders of systems are hidden. Folders with a leading `@` are, too, unless all
    entries have one.
    """
    shown = [entry for entry in entries if entry.name[0] != "." and entry.name not in SYSTEM_FOLDERS]
    if not all(entry.name[0] == "@" for entry in shown):
        shown = [entry for entry in shown if entry.name[0] != "@" or not os.path.isdir(entry.path)]
    names = {entry.name for entry in shown}
    return shown, [entry for entry in entries if entry.name not in names]


def files_below(folder: Path, name: str) -> list[str]:
    """Every file of a folder, hidden ones too, without following links; the file itself if it is one."""
    path = os.path.join(folder, name)
    if os.path.islink(path) or not os.path.isdir(path):
        return [name]
    found = []
    for parent, folders, files in os.walk(path):
        links = [entry for entry in folders if os.path.islink(os.path.join(parent, entry))]
        found += [os.path.relpath(os.path.join(parent, entry), folder) for entry in (*files, *links)]
    return sorted(found)


def sort_file(listing: Listing, name: str, is_file: bool = True) -> None:
    """Adds a file to the list of its kind; what is no file, such as a link to nothing, is noted."""
    path, lower = listing.path(name), name.lower()
    if not is_utf8(name):
        listing.ignore(NOT_UTF8, [name.encode(errors="backslashreplace").decode()])
    elif not is_file:
        listing.ignore(BROKEN_LINK if os.path.islink(path) else NO_IMAGE, [name])
    elif is_image_file(path):
        listing.images.append(name)
    elif lower.endswith(TABLE_SUFFIXES):
        listing.tables.append(name)
    elif lower.endswith(".parquet"):
        listing.parquet.append(name)
    elif lower.endswith(SHARD_SUFFIXES):
        listing.shards.append(name)
    else:
        listing.ignore(NEED_PLUGIN if needed_plugin(name) else NO_IMAGE, [name])


def is_utf8(name: str) -> bool:
    """Whether a name is text; Arrow stores no other."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow decodes here, plugins included."""
    load_plugins()
    decoded = set(Image.OPEN) | {"MPO"}
    return frozenset(
        suffix
        for suffix, name in Image.registered_extensions().items()
        if name in decoded and name not in UNDECODED_FORMATS
    )


@functools.cache
def signed_formats() -> tuple[str, ...]:
    """Formats that a file's first bytes tell."""
    load_plugins()
    return tuple(name for name in Image.OPEN if name not in UNDECODED_FORMATS | UNSIGNED_FORMATS)


@functools.cache
def load_plugins() -> None:
    """Adds the formats of those of Pillow's plugins that are installed."""
    Image.init()
    for package, suffixes in PLUGINS.items():
        if suffixes[0] in Image.registered_extensions():
            continue
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        if hasattr(module, "register_heif_opener"):
            module.register_heif_opener()


def needed_plugin(name: str) -> str | None:
    """The package that would let Pillow open a file, by its suffix; None if there is none."""
    suffix = Path(name).suffix.lower()
    return next((package for package, suffixes in PLUGINS.items() if suffix in suffixes), None)


def is_image_file(path: str) -> bool:
    """Whether a file is an image: by a suffix of a format that Pillow decodes, else by its content."""
    if os.path.splitext(path)[1].lower() in image_suffixes():
        return True
    try:
        with open(path, "rb") as file:
            return is_image_content(file)
    except OSError:
        return False


def is_image_content(file) -> bool:
    """Whether the first bytes of a binary file are those of an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as about the size, which matters when it is decoded
            Image.open(file, formats=signed_formats())
    except Exception:  # Pillow's readers raise many types
        return False
    return True
