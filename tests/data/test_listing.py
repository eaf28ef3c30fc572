"""What a folder holds: every file is read or named, whatever the tree."""

import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_vit_suite.data import load_image_dataset, load_unlabelled_images
from hf_vit_suite.data.listing import BROKEN_LINK, HIDDEN, LISTED_BEFORE, list_folder

FORMATS = {".png": "PNG", ".JPG": "JPEG", ".WebP": "WEBP", ".tiff": "TIFF", "": "BMP", ".dat": "GIF", ".mpo": "MPO"}


def encoded(suffix: str) -> bytes:
    """A small image in the format of a suffix."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (200, 30, 40)).save(buffer, format=FORMATS[suffix])
    return buffer.getvalue()


IMAGES = {suffix: encoded(suffix) for suffix in FORMATS}
STRAYS = {
    "notes.txt": b"P3 is no image",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "labels.csv": b"file_name,label\n",
    "more.zip": b"PK\x03\x04",
    "images.tar": b"not even a tar",
    ".DS_Store": b"x",
    "model.npy": b"\x93NUMPY",
    "raw.bin": bytes(64),
}

names = st.one_of(
    st.sampled_from(
        ["a", "train", "Test", "val", "@eaDir", "@home", ".git", "[x]", "$HOME", "a, b", "é", "e\u0301", "🐱"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6),
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 60)
files = st.one_of(
    st.tuples(names, st.sampled_from(sorted(FORMATS))),
    st.tuples(st.sampled_from(sorted(STRAYS)), st.none()),
    st.tuples(st.just("link"), st.integers(0, 5)),
)
trees = st.recursive(
    st.lists(files, max_size=4).map(lambda found: {"files": found, "folders": {}}),
    lambda below: st.fixed_dictionaries(
        {"files": st.lists(files, max_size=3), "folders": st.dictionaries(names, below, max_size=4)}
    ),
    max_leaves=10,
)


def build(folder: Path, tree: dict, links: list[tuple[Path, int]]) -> None:
    """Makes a tree; links wait until every folder is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in tree["files"]:
        if isinstance(kind, int):
            links.append((folder / f"link{kind}", kind))
        elif kind is None:
            (folder / name).write_bytes(STRAYS[name])
        elif not (folder / (name + kind)).exists():
            (folder / (name + kind)).write_bytes(IMAGES[kind])
    for name, below in tree["folders"].items():
        if not (folder / name).exists():
            build(folder / name, below, links)


def everything(folder: Path) -> set[str]:
    """The files and links of a tree, none of which is followed."""
    found = set()
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found |= {os.path.relpath(os.path.join(parent, name), folder) for name in (*names, *links)}
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse some of the names")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(trees)
def test_files_read_and_files_ignored_are_all_files(tree: dict):
    root = Path(tempfile.mkdtemp())
    try:
        folder, links = root / "data", []
        build(folder, tree, links)
        places = sorted(path for path in folder.rglob("*") if path.is_dir())
        for link, number in links:
            if not link.is_symlink():
                targets = [*places[:3], root / "nowhere", folder]
                link.symlink_to(targets[number % len(targets)])
        check_folder(folder)
    finally:
        shutil.rmtree(root)


def check_folder(folder: Path) -> None:
    """Lists and loads a folder in both ways; what is loaded and what is ignored is what is there."""
    there = everything(folder)
    listing = list_folder(folder)
    listed = [*listing.images, *listing.tables, *listing.parquet, *listing.shards]
    ignored = [name for found in listing.ignored.values() for name in found]
    assert len(listed) + len(ignored) == len(set(listed) | set(ignored))
    real = {os.path.relpath(os.path.realpath(folder / name), os.path.realpath(folder)) for name in listed}
    assert {name for name in there if not (folder / name).is_symlink()} <= real | set(ignored)
    for load in (load_unlabelled_images, load_image_dataset):
        try:
            data = load(str(folder))
        except ValueError as error:
            if "\n" in str(error) and not any("\n" in name for name in there):
                raise
            continue
        splits = {"train": data.rows} if load is load_unlabelled_images else data.splits
        paths = [os.path.relpath(row["image"]["path"], folder) for rows in splits.values() for row in rows]
        ignored = [name for found in data.reading.ignored.values() for name in found]
        assert len(paths) == len(set(paths))
        assert not set(paths) & set(ignored)
        assert set(listing.images) == {*paths, *(set(ignored) & set(listing.images))}
        assert {name for name in there if name.isascii()} <= {*paths, *ignored, *linked(folder, there)}


def linked(folder: Path, there: set[str]) -> set[str]:
    """Links that are followed: their files appear below them."""
    return {name for name in there if (folder / name).is_symlink() and (folder / name).is_dir()}


@pytest.mark.parametrize("suffix", sorted(FORMATS))
@pytest.mark.parametrize("name", ["photo", "photo.final", "PHOTO v1.2"])
def test_image_is_known_whatever_it_is_called(tmp_path: Path, name: str, suffix: str):
    for number, label in enumerate("ab"):
        (tmp_path / label).mkdir()
        for index in range(4):
            (tmp_path / label / f"{index}{name}{suffix}").write_bytes(IMAGES[suffix])
        (tmp_path / label / f"x{number}.md").write_text("no image")
    data = load_image_dataset(str(tmp_path))
    assert sum(map(len, data.splits.values())) == 8
    assert data.skipped == []
    assert "a/x0.md, b/x1.md (no images)" in data.reading.summary


def test_formats_of_this_pillow_are_read_by_their_suffix_in_any_case(tmp_path: Path):
    saved = []
    for suffix, name in Image.registered_extensions().items():
        if name in ("AVIF", "JPEG2000", "QOI", "PCX", "TGA", "PPM", "ICO") and name in Image.SAVE:
            Image.new("RGB", (16, 16), "red").save(tmp_path / f"0{suffix.upper()}", format=name)
            saved.append(f"0{suffix.upper()}")
    assert len(saved) > 5
    data = load_unlabelled_images(str(tmp_path))
    assert sorted(Path(row["image"]["path"]).name for row in data.rows) == sorted(saved)


def test_text_that_looks_like_an_image_is_none(tmp_path: Path):
    for name, text in {"a.txt": "P3 is a processor", "b": "BM", "c.cfg": "#define width 3", "d.md": "GIF89"}.items():
        (tmp_path / name).write_text(text)
    assert list_folder(tmp_path).images == []


def test_system_folders_hidden_files_and_at_folders_are_no_classes(tmp_path: Path):
    for folder in ("red", "green", "@eaDir", "@thumbs", ".cache", "__MACOSX", "red/@eaDir", "green/.thumbs"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(4):
            (tmp_path / folder / f"{number}.png").write_bytes(IMAGES[".png"])
    (tmp_path / "red" / "._0.png").write_bytes(b"resource fork")
    data = load_image_dataset(str(tmp_path))
    assert data.label_names == ["green", "red"]
    assert len(data.reading.ignored[HIDDEN]) == 6 * 4 + 1


def test_at_folders_alone_are_classes(tmp_path: Path):
    for folder in ("@alice", "@bob"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            (tmp_path / folder / f"{number}.png").write_bytes(IMAGES[".png"])
    assert load_image_dataset(str(tmp_path)).label_names == ["@alice", "@bob"]


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path):
    for split, name in (("train", "cafe\u0301"), ("test", "caf\u00e9"), ("train", "tee"), ("test", "tee")):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / split / name / f"{number}.png").write_bytes(IMAGES[".png"])
    data = load_image_dataset(str(tmp_path), validation_fraction=0.3)
    assert data.label_names == ["caf\u00e9", "tee"]
    assert sorted(data.splits["test"]["label"]) == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("target", ["data", ".", "data/a", "data/a/.."])
def test_link_that_leads_in_a_circle_is_named_and_not_followed(tmp_path: Path, target: str):
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            (tmp_path / "data" / name / f"{number}.png").write_bytes(IMAGES[".png"])
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / target)
    (tmp_path / "data" / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = load_image_dataset(str(tmp_path / "data"))
    assert sum(map(len, data.splits.values())) == 8
    assert data.reading.ignored == {LISTED_BEFORE: ["a/again"], BROKEN_LINK: ["b/gone.png"]}


def test_real_folder_is_read_where_it_is_and_not_where_a_link_leads(tmp_path: Path):
    for name in ("b", "z"):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.png").write_bytes(IMAGES[".png"])
    (tmp_path / "a").symlink_to(tmp_path / "z")
    assert load_image_dataset(str(tmp_path)).label_names == ["b", "z"]


def test_name_that_is_no_text_is_named(tmp_path: Path):
    (tmp_path / "0.png").write_bytes(IMAGES[".png"])
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(IMAGES[".png"])
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    data = load_unlabelled_images(str(tmp_path))
    assert len(data.rows) == 1
    assert "caf\\udce9.png" in data.reading.summary


def test_patterns_are_taken_below_the_folders_that_exist(tmp_path: Path, monkeypatch):
    place = tmp_path / "work [2024], $HOME 🐱"
    (place / "shards").mkdir(parents=True)
    for number in range(2):
        with tarfile.open(place / "shards" / f"{number}.tar", "w") as archive:
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(IMAGES[".png"])
            archive.addfile(member, io.BytesIO(IMAGES[".png"]))
    monkeypatch.chdir(place)
    for source in ("shards/*.tar", "./shards/?.tar", str(place / "shards" / "*.tar"), "shards", "**/*.tar"):
        assert len(load_unlabelled_images(source).rows) == 2
