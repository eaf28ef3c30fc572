"""Webdataset shards as programs and people write them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_vit_suite.data import decode_image, load_captioned_images, load_image_dataset, load_unlabelled_images
from hf_vit_suite.data.rows import find_problem

FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "JPG": "JPEG",
    "png": "PNG",
    "PNG": "PNG",
    "webp": "WEBP",
    "tif": "TIFF",
    "bin": "PNG",
}


def picture(number: int, suffix: str) -> bytes:
    """A flat picture whose grey is 8 x its number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 8 * number, np.uint8)).save(buffer, format=FORMATS[suffix])
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes | str], mode: str = "w") -> None:
    """A tar file with these members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def members(suffixes: list[str], number: int = 24, label: str = "cls", below: str = "") -> dict[str, bytes | str]:
    """Samples whose pictures have these suffixes in turn; the label is the number modulo 2."""
    found: dict[str, bytes | str] = {}
    for index in range(number):
        suffix = suffixes[index % len(suffixes)]
        found[f"{below}{index:04}.{suffix}"] = picture(index, suffix)
        found[f"{below}{index:04}.{label}"] = json.dumps({"label": index % 2}) if label == "json" else str(index % 2)
    return found


def grey(row: dict) -> int:
    """The number of a row's picture."""
    return round(decode_image(row["image"]).getpixel((0, 0))[0] / 8)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "suffixes",
    [["jpg", "png"], ["jpeg", "webp", "jpg"], ["PNG", "JPG"], ["tif", "jpg"], ["jpg"] * 20 + ["png"] * 4, ["bin"]],
)
def test_pictures_of_mixed_formats_in_one_shard_are_all_read(tmp_path: Path, suffixes: list[str], streaming: bool):
    write_shard(tmp_path / "a.tar", members(suffixes))
    rows = list(load_unlabelled_images(str(tmp_path), streaming=streaming).rows)
    assert [grey(row) for row in rows] == list(range(24))
    data = load_image_dataset(str(tmp_path / "a.tar"))
    assert all(grey(row) % 2 == row["label"] for split in data.splits.values() for row in split)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("below", ["", "photos/", "./"])
def test_folders_and_compression_of_a_shard_change_nothing(tmp_path: Path, below: str, mode: str):
    name = "a.tar.gz" if mode == "w:gz" else "A.TAR"
    write_shard(tmp_path / name, members(["png"], label="label", below=below), mode)
    data = load_image_dataset(str(tmp_path))
    assert data.label_names == ["0", "1"]
    assert sorted(grey(row) for rows in data.splits.values() for row in rows) == list(range(24))


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        ([10, 9], ["9", "10"]),
        (["007", "7"], ["007", "7"]),
        ([True, False], ["false", "true"]),
    ],
)
def test_json_labels_are_the_written_text(tmp_path: Path, values: list, names: list[str]):
    found: dict[str, bytes | str] = {}
    for number in range(20):
        found[f"{number}.png"] = picture(number, "png")
        found[f"{number}.json"] = json.dumps({"label": values[number % 2], "other": None if number % 3 else number})
    write_shard(tmp_path / "a.tar", found)
    data = load_image_dataset(str(tmp_path))
    assert sorted(data.label_names) == sorted(names)
    for rows in data.splits.values():
        for row in rows:
            expected = values[grey(row) % 2]
            assert data.label_names[row["label"]] == (expected if isinstance(expected, str) else json.dumps(expected))


def test_nested_json_and_lists_are_reached_by_column(tmp_path: Path):
    found: dict[str, bytes | str] = {}
    for number in range(20):
        found[f"{number}.png"] = picture(number, "png")
        found[f"{number}.json"] = json.dumps(
            {"meta": {"kind": "xy"[number % 2]}, "tags": ["a", "b"][: 1 + number % 2]}
        )
    write_shard(tmp_path / "a.tar", found)
    assert load_image_dataset(str(tmp_path), label_column="json.meta.kind").label_names == ["x", "y"]
    data = load_image_dataset(str(tmp_path), label_column="json.tags")
    assert data.problem_type == "multi_label_classification"
    assert data.label_names == ["a", "b"]
    with pytest.raises(
        ValueError, match=r"no column that looks like the label: name one of json.meta.kind, json.tags by"
    ):
        load_image_dataset(str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_img2dataset_shards_keep_captions_and_ignore_their_tables(tmp_path: Path, streaming: bool):
    found: dict[str, bytes | str] = {}
    for number in range(6):
        found[f"{number:09}.jpg"] = picture(number, "jpg")
        found[f"{number:09}.json"] = json.dumps({"caption": f"number {number}", "url": None, "width": 8})
        if number != 4:
            found[f"{number:09}.txt"] = f" number {number}\n"
    write_shard(tmp_path / "00000.tar", found)
    import pandas

    pandas.DataFrame({"url": ["http://x"], "caption": ["a"], "status": ["ok"]}).to_parquet(tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    data = load_captioned_images(str(tmp_path), streaming=streaming)
    texts = [row["text"] for row in data.rows]
    assert texts == [[f"number {number}"] for number in (0, 1, 2, 3, 5)]
    assert "00000.parquet (archives), 00000_stats.json (no images)" in data.reading.summary
    column = load_captioned_images(str(tmp_path), streaming=streaming, text_column="json.caption")
    assert [row["text"] for row in column.rows] == [[f"number {number}"] for number in range(6)]


def test_samples_with_missing_parts_are_counted_and_named(tmp_path: Path):
    found = members(["png"], 10)
    del found["0003.png"]
    write_shard(tmp_path / "a.tar", found)
    data = load_image_dataset(str(tmp_path))
    images = [row["image"] for rows in data.splits.values() for row in rows]
    lines = [problem for image in images if (problem := find_problem(image))]
    assert len(lines) == 1
    assert "a.tar/0003 (a sample without an image)" in lines[0]
    del found["0005.cls"]
    write_shard(tmp_path / "a.tar", found)
    with pytest.raises(ValueError, match="1 images of the train split have no label"):
        load_image_dataset(str(tmp_path))


def test_one_of_several_pictures_is_chosen_by_column(tmp_path: Path):
    found: dict[str, bytes | str] = {}
    for number in range(4):
        found |= {f"{number}.png": picture(number, "png"), f"{number}.seg.png": picture(31, "png")}
    write_shard(tmp_path / "masks" / "a.tar", found)
    assert [grey(row) for row in load_unlabelled_images(str(tmp_path / "masks")).rows] == [0, 1, 2, 3]
    chosen = load_unlabelled_images(str(tmp_path / "masks"), image_column="seg.png").rows
    assert [grey(row) for row in chosen] == [31] * 4
    write_shard(tmp_path / "two" / "a.tar", {"0.jpg": picture(1, "jpg"), "0.png": picture(2, "png")})
    with pytest.raises(ValueError, match="0 has the images jpg, png: choose one by --image_column"):
        load_unlabelled_images(str(tmp_path / "two"))
    assert [grey(row) for row in load_unlabelled_images(str(tmp_path / "two"), image_column="png").rows] == [2]


@pytest.mark.parametrize("kind", ["cut off", "no tar", "bad json"])
def test_bad_shard_is_named_in_one_line(tmp_path: Path, kind: str):
    write_shard(tmp_path / "a.tar", members(["png"], label="json"))
    if kind == "cut off":
        content = (tmp_path / "a.tar").read_bytes()
        (tmp_path / "a.tar").write_bytes(content[: len(content) // 2 + 100])
    elif kind == "no tar":
        (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    else:
        write_shard(tmp_path / "a.tar", {"0.png": picture(0, "png"), "0.json": "{"})
    with pytest.raises(ValueError, match=r"a\.tar|0\.json") as error:
        load_image_dataset(str(tmp_path))
    assert "\n" not in str(error.value)


def test_changed_shard_is_read_anew(tmp_path: Path):
    for number in (4, 6):
        write_shard(tmp_path / "a.tar", members(["png"], number))
        assert len(load_unlabelled_images(str(tmp_path)).rows) == number


@pytest.mark.parametrize("streaming", [False, True])
def test_links_and_images_without_a_suffix_are_read(tmp_path: Path, streaming: bool):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(4):
            add(archive, f"{number}.png", picture(number, "png"))
        for name, kind in (("hard.png", tarfile.LNKTYPE), ("soft.png", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "2.png"
            archive.addfile(member)
        for name, kind, target in (("folder", tarfile.DIRTYPE, ""), ("link.png", tarfile.SYMTYPE, "folder")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
        add(archive, "bare", picture(5, "png"))
    data = load_unlabelled_images(str(tmp_path), streaming=streaming, strict_images=True)
    assert [grey(row) for row in data.rows] == [0, 1, 2, 3, 2, 2, 5]


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a member."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"0.PNG": picture(0, "png"), "0.png": picture(1, "png")}, r"a.tar/0.PNG and 0.png are of one sample"),
        ({"0.png": picture(0, "png"), "0.txt": "caf\u00e9".encode("latin-1")}, r"a.tar/0.txt is not encoded in UTF-8"),
        ({"0.png": picture(0, "png"), "0.json": b'{"text": "\xe9"}'}, r"a.tar/0.json is not encoded in UTF-8"),
        ({"0.png": picture(0, "png"), "0.json": "[1]"}, r"0.json: expected a JSON object"),
    ],
)
def test_members_that_would_be_lost_or_changed_are_refused(tmp_path: Path, extra: dict, match: str):
    write_shard(tmp_path / "a.tar", extra)
    with pytest.raises(ValueError, match=match):
        load_captioned_images(str(tmp_path))


def test_a_byte_order_mark_is_no_part_of_a_caption(tmp_path: Path):
    texts = {"0.txt": "a\u00e9".encode("utf-8-sig"), "1.txt": "b\u00e9".encode("utf-16"), "2.txt": "c"}
    members = {name: content for number, pair in enumerate(texts.items()) for name, content in image_and(number, pair)}
    write_shard(tmp_path / "a.tar", members)
    assert load_captioned_images(str(tmp_path)).rows["text"][:] == [["a\u00e9"], ["b\u00e9"], ["c"]]


def image_and(number: int, pair: tuple[str, bytes | str]) -> list[tuple[str, bytes | str]]:
    """A picture and a member beside it."""
    return [(f"{number}.png", picture(number, "png")), pair]


def test_a_list_after_the_first_samples_is_refused(tmp_path: Path):
    samples: dict[str, bytes | str] = {}
    for number in range(205):
        samples[f"{number:04}.png"] = picture(number % 20, "png")
        samples[f"{number:04}.json"] = json.dumps({"text": "one" if number < 204 else ["two", "three"]})
    write_shard(tmp_path / "a.tar", samples)
    with pytest.raises(ValueError, match=r"0204 has a list in json.text where the first samples have one value"):
        load_captioned_images(str(tmp_path))


def test_names_with_dots_are_explained(tmp_path: Path):
    write_shard(tmp_path / "a.tar", {"v1.000.png": picture(0, "png"), "v1.000.cls": "1"})
    with pytest.raises(ValueError, match=r"from the first dot of a name on, are 000.cls, 000.png"):
        load_image_dataset(str(tmp_path))
