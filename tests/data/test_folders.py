"""Which images of a folder are read: split folders, class folders, other files, links, literal names."""

import logging
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image
from references_of_training import assert_one_line_error, save_tiny_classifier

from hf_vit_suite.data import load_image_dataset, load_unlabelled_images


def make_images(folder: Path, number: int = 4) -> None:
    """Images right in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")


def make_classes(folder: Path, *names: str) -> None:
    """Four images in each class folder."""
    for name in names:
        make_images(folder / name)


def paths(rows) -> set[str]:
    """The files of rows."""
    return {row["image"]["path"] for row in rows}


def labelled(source: Path, **options) -> set[str]:
    """The files that are read with labels."""
    return set.union(*(paths(rows) for rows in load_image_dataset(str(source), **options).splits.values()))


def unlabelled(source: Path, **options) -> set[str]:
    """The files that are read without labels."""
    return paths(load_unlabelled_images(str(source), **options).rows)


every_reader = pytest.mark.parametrize("read", [labelled, unlabelled])
every_way = pytest.mark.parametrize("streaming", [False, True])


@every_way
@pytest.mark.parametrize("names", [("bus", "car", "train"), ("control", "test"), ("dev", "user"), ("Train", "bus")])
def test_class_that_is_called_as_a_split_is_a_class(tmp_path: Path, names: tuple[str, ...], streaming: bool):
    make_classes(tmp_path, *names)
    data = load_image_dataset(str(tmp_path), streaming=streaming)
    assert data.label_names == sorted(names)
    assert labelled(tmp_path, streaming=streaming) == unlabelled(tmp_path, streaming=streaming)
    assert len(unlabelled(tmp_path, streaming=streaming)) == 4 * len(names)


@every_way
@pytest.mark.parametrize("names", [("Train", "Test"), ("Training", "Testing"), ("TRAINING", "Val", "test")])
def test_split_folders_are_known_in_any_case(tmp_path: Path, names: tuple[str, ...], streaming: bool):
    for name in names:
        make_classes(tmp_path / name, "a", "b")
    (tmp_path / "docs").mkdir()  # holds no image that could be left out
    data = load_image_dataset(str(tmp_path), streaming=streaming)
    assert data.label_names == ["a", "b"]
    assert all(f"/{names[-1]}/" in path for path in paths(data.splits["test"]))
    assert unlabelled(tmp_path, streaming=streaming) == {
        str(tmp_path / names[0] / label / f"{index}.png") for label in "ab" for index in range(4)
    }


@every_reader
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("train", "test", "extra"),
            r"more than one way: the splits test, train beside extra.*--split_names .*--layout",
        ),
        (("train", "bus"), r"more than one way: the splits train beside bus, .*--split_names train=train\)"),
        (("train", "Training"), r"Training and train both name the train split: choose by --split_names"),
        (("val", "valid", "train"), r"val and valid both name the validation split: choose by --split_names"),
        (("test", "val"), r"the splits test, val but no training images: choose by --split_names"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_refused(
    tmp_path: Path, names: tuple[str, ...], message: str, read: Callable
):
    for name in names:
        make_classes(tmp_path / name, "a", "b")
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_options_choose_between_splits_and_classes(tmp_path: Path):
    for name in ("train", "test", "extra"):
        make_classes(tmp_path / name, "a", "b")
    data = load_image_dataset(str(tmp_path), split_names=["train=extra", "test=test"])
    assert data.label_names == ["a", "b"]
    assert paths(data.splits["test"]) == {str(path) for path in (tmp_path / "test").rglob("*.png")}
    assert data.reading.report()["ignored"]["outside the named splits"]["files"] == 8
    assert load_image_dataset(str(tmp_path), layout="class_folders").label_names == ["extra", "test", "train"]
    assert load_image_dataset(str(tmp_path), layout="leaf_folders").label_names == [
        f"{name}/{label}" for name in ("extra", "test", "train") for label in "ab"
    ]
    assert len(unlabelled(tmp_path, split_names={"train": "extra"})) == 8
    assert len(unlabelled(tmp_path, layout="images")) == 24


def test_option_for_the_depth_of_classes_keeps_the_splits(tmp_path: Path):
    for split in ("train", "test"):
        make_classes(tmp_path / "photos" / split, "cat/indoor", "cat/outdoor", "dog")
    make_images(tmp_path / "photos" / "train" / "dog", 6)
    with pytest.raises(ValueError, match=r"2 classes such as cat \(--layout class_folders\), or 3 classes such as"):
        labelled(tmp_path)
    for layout, names in (("class_folders", ["cat", "dog"]), ("leaf_folders", ["cat/indoor", "cat/outdoor", "dog"])):
        data = load_image_dataset(str(tmp_path), layout=layout)
        assert data.label_names == names
        assert {path.split("/")[-4 if "cat" in path else -3] for path in paths(data.splits["test"])} == {"test"}
    assert len(unlabelled(tmp_path, layout="images")) == 14


def test_single_folder_may_be_named_as_the_training_split(tmp_path: Path):
    make_classes(tmp_path / "2024", "a", "b")
    assert load_image_dataset(str(tmp_path), split_names=["train=2024"]).label_names == ["a", "b"]


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing", "val")])
def test_splits_without_classes_are_no_classes(tmp_path: Path, names: tuple[str, ...]):
    for name in names:
        make_images(tmp_path / name)
    with pytest.raises(ValueError, match=r"hold images but no class folders, expected .*/CLASS/IMAGE.png; if these"):
        labelled(tmp_path)
    assert load_image_dataset(str(tmp_path), layout="class_folders").label_names == sorted(names)
    assert {Path(path).parent.name for path in unlabelled(tmp_path)} == {names[0]}


def test_test_images_without_classes_are_left_out_and_counted(tmp_path: Path):
    make_classes(tmp_path / "Train", "a", "b")
    make_images(tmp_path / "Test", 5)
    data = load_image_dataset(str(tmp_path))
    assert "5 files such as Test/0.png (of splits without class folders)" in data.reading.summary
    assert sum(map(len, data.splits.values())) == 8


@every_reader
@pytest.mark.parametrize("wrapper", ["photos", "photos/photos", "archive/data/all images"])
def test_single_folders_around_the_data_are_passed(tmp_path: Path, wrapper: str, read: Callable):
    for split in ("train", "test"):
        make_classes(tmp_path / wrapper / split, "a", "b")
    train = {path for path in read(tmp_path) if "/train/" in path}
    assert len(train) == 8
    assert read(tmp_path) in (train, {str(path) for path in tmp_path.rglob("*.png")})


@every_reader
def test_image_outside_the_split_folders_is_refused(tmp_path: Path, read: Callable):
    make_classes(tmp_path / "train", "a", "b")
    make_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"0\.png lies outside the split folders train: move it into one"):
        read(tmp_path)


def test_image_outside_the_class_folders_is_refused_with_labels_and_read_without(tmp_path: Path):
    make_classes(tmp_path, "a", "b")
    make_images(tmp_path, 1)
    with pytest.raises(ValueError, match=r"0\.png lies in no class folder: move it into one, or away"):
        labelled(tmp_path)
    assert len(unlabelled(tmp_path)) == 9


def test_splits_below_a_folder_of_images_without_labels_are_refused(tmp_path: Path):
    for name in ("version1/train", "version1/test", "version2"):
        make_images(tmp_path / name)
    with pytest.raises(ValueError, match="version1 holds split folders, and all images below would be read"):
        unlabelled(tmp_path)


def write_parquet(path: Path) -> None:
    """Twenty images of two classes."""
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("RGB", (8, 8))] * 20, "label": [0, 1] * 10}
    Dataset.from_dict(rows, features=features).to_parquet(path)


@every_reader
@pytest.mark.parametrize(
    "stray", ["images.tar", "x.parquet", "a/x.parquet", "labels.csv", "train-images-idx3-ubyte", "b/photos.tar.gz"]
)
def test_archives_and_tables_beside_class_folders_are_ignored_by_name(tmp_path: Path, stray: str, read: Callable):
    make_classes(tmp_path, "a", "b")
    if stray.endswith("parquet"):
        write_parquet(tmp_path / stray)
    else:
        (tmp_path / stray).write_bytes(b"whatever")
    assert len(read(tmp_path)) == 8
    load = load_image_dataset if read is labelled else load_unlabelled_images
    reading = load(str(tmp_path)).reading
    assert [stray] in reading.ignored.values()
    assert f"; ignored: {stray} (" in reading.summary


@every_reader
def test_archives_in_folders_of_their_own_beside_images_are_a_question(tmp_path: Path, read: Callable):
    make_classes(tmp_path, "a", "b")
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "x.parquet")
    layout = "class_folders" if read is labelled else "images"
    with pytest.raises(ValueError, match=rf"a/0.png and such \(--layout {layout}\), or data/x.parquet and such"):
        read(tmp_path)
    assert len(read(tmp_path, layout=layout)) == 8
    assert len(load_unlabelled_images(str(tmp_path), layout="parquet").rows) == 20


def test_hidden_files_are_no_data(tmp_path: Path):
    make_classes(tmp_path, "a", "b")
    make_images(tmp_path / ".ipynb_checkpoints", 1)
    (tmp_path / ".cache").mkdir()
    write_parquet(tmp_path / ".cache" / "x.parquet")
    assert len(labelled(tmp_path)) == len(unlabelled(tmp_path)) == 8


@every_reader
def test_files_that_are_never_read_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, read: Callable):
    make_classes(tmp_path, "a", "b")
    for name in ("more.zip", "a/notes.txt"):
        (tmp_path / name).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        read(tmp_path)
    assert "; ignored: a/notes.txt, more.zip (no images)" in caplog.text


def test_further_splits_of_a_source_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch):
    write_parquet(tmp_path / "train.parquet")
    rows = Dataset.from_parquet(str(tmp_path / "train.parquet"))
    loaded = datasets.DatasetDict({"train": rows, "extra": rows})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: loaded)
    with caplog.at_level(logging.WARNING):
        load_image_dataset("somebody/something")
    assert "splits that are not read: extra" in caplog.text


@every_way
@every_reader
def test_linked_folders_are_followed_once(tmp_path: Path, read: Callable, streaming: bool):
    make_classes(tmp_path / "store", "a", "b")
    (tmp_path / "data").mkdir()
    make_images(tmp_path / "data" / "c")
    for name in "ab":
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    (tmp_path / "data" / "c" / "again").symlink_to(tmp_path / "data")
    assert len(read(tmp_path / "data", streaming=streaming)) == 12


@every_way
@every_reader
@pytest.mark.parametrize("name", ["$SHOP", "${SHOP}s", "~x", "a*", "[x]", "a%41", "a::b", "a, b", "🐱 é", "{x}"])
def test_names_are_taken_literally(tmp_path: Path, monkeypatch, name: str, read: Callable, streaming: bool):
    monkeypatch.setenv("SHOP", "elsewhere")
    monkeypatch.chdir(tmp_path)
    for folder in (name, "elsewhere", "elsewheres", "ab"):
        make_classes(tmp_path / folder, "a", name)
    for source in (tmp_path / name, os.path.join(".", name)):
        found = read(source, streaming=streaming)
        assert found == {str(tmp_path / name / label / f"{index}.png") for label in ("a", name) for index in range(4)}


@every_way
def test_parquet_file_in_a_folder_called_as_a_variable_is_that_one(tmp_path: Path, monkeypatch, streaming: bool):
    monkeypatch.setenv("SHOP", "elsewhere")
    (tmp_path / "$SHOP").mkdir()
    write_parquet(tmp_path / "$SHOP" / "train.parquet")
    assert sum(1 for _ in load_unlabelled_images(str(tmp_path / "$SHOP"), streaming=streaming).rows) == 20


def test_parquet_name_that_datasets_takes_for_an_archive_is_refused(tmp_path: Path):
    (tmp_path / "a::b").mkdir()
    write_parquet(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").rename(tmp_path / "a::b" / "x.parquet")
    with pytest.raises(ValueError, match=r"takes the :: in .* for a path into an archive: rename it"):
        unlabelled(tmp_path / "a::b", streaming=True)


def test_commands_stop_where_the_data_are_not_clear(run_command, tmp_path: Path):
    make_classes(tmp_path / "data" / "train", "a", "b")
    make_classes(tmp_path / "data" / "more", "a", "b")
    model = save_tiny_classifier(tmp_path / "model")
    for command in (("finetune", "--model", str(model)), ("pretrain", "mae"), ("evaluate", "knn", str(model))):
        result = run_command(*command, "--dataset", str(tmp_path / "data"), check=False)
        assert_one_line_error(result, "can be read in more than one way: the splits train beside more")


@pytest.mark.parametrize(
    "names", [("train2017", "val2017"), ("train_set", "Test_Set"), ("Train Images", "test images")]
)
def test_split_folders_with_longer_names_are_known(tmp_path: Path, names: tuple[str, str]):
    for name in names:
        make_images(tmp_path / "flat" / name)
        make_classes(tmp_path / "classes" / name, "a", "b")
    assert {Path(path).parent.name for path in unlabelled(tmp_path / "flat")} == {names[0]}
    with pytest.raises(ValueError, match="hold images but no class folders"):
        labelled(tmp_path / "flat")
    data = load_image_dataset(str(tmp_path / "classes"))
    assert data.label_names == ["a", "b"]
    assert len(data.splits["validation" if "val2017" in names else "test"]) == 8


@pytest.mark.parametrize("names", [("training day", "test drive"), ("trains", "tests"), ("trainer", "protest")])
def test_names_that_only_begin_as_splits_are_classes(tmp_path: Path, names: tuple[str, str]):
    make_classes(tmp_path, *names)
    assert load_image_dataset(str(tmp_path)).label_names == sorted(names)
    assert len(unlabelled(tmp_path)) == 8


@pytest.mark.parametrize(
    "names",
    [
        *[("images", "annotations"), ("Images", "masks"), ("cats", "labels"), ("image", "mask")],
        *[("JPEGImages", "SegmentationClass"), ("img", "GT"), ("assets", "figures")],
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, names: tuple[str, str]):
    make_classes(tmp_path, *names)
    with pytest.raises(ValueError, match="looks like a part of a data set and not like a class: name the folder that"):
        labelled(tmp_path)
    assert load_image_dataset(str(tmp_path), layout="class_folders").label_names == sorted(names)


def test_table_beside_images_without_classes_is_named(tmp_path: Path):
    make_images(tmp_path / "train")
    make_images(tmp_path / "test")
    (tmp_path / "labels.csv").write_text("file_name,label\n")
    with pytest.raises(ValueError, match=r"a table of the labels can be given as --dataset .*/labels.csv"):
        labelled(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("parquet", "there is no parquet file"),
        ("webdataset", "there is no .tar file"),
        ("idx", "there is no IDX file such as train-images-idx3-ubyte"),
        ("metadata", "no labels, expected a file .*metadata.csv"),
        ("images", "--layout images gives no labels"),
        ("folders", "--layout must be one of class_folders, leaf_folders"),
    ],
)
def test_layout_that_a_folder_has_not_is_told(tmp_path: Path, layout: str, message: str):
    make_classes(tmp_path, "a", "b")
    with pytest.raises(ValueError, match=message):
        labelled(tmp_path, layout=layout)


@every_way
@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("cars_train", "cars_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("ISIC_2019_Training_Input", "ISIC_2019_Test_Input"),
        ("train/train", "test/test"),
        ("flowers-train", "flowers-val"),
    ],
)
def test_split_folders_may_have_a_name_in_common(tmp_path: Path, train: str, test: str, streaming: bool):
    for name in (train, test):
        make_classes(tmp_path / name, "a", "b")
    data = load_image_dataset(str(tmp_path), streaming=streaming)
    split = "validation" if "val" in test else "test"
    assert data.label_names == ["a", "b"]
    assert paths(data.splits[split]) == {str(tmp_path / test / label / f"{n}.png") for label in "ab" for n in range(4)}
    assert all(f"/{train}/" in path for path in unlabelled(tmp_path, streaming=streaming))


@pytest.mark.parametrize("names", [("train_station", "test_tube"), ("steam train", "model train", "bus")])
def test_classes_with_the_word_of_a_split_are_classes(tmp_path: Path, names: tuple[str, ...]):
    make_classes(tmp_path, *names)
    assert load_image_dataset(str(tmp_path)).label_names == sorted(names)
    assert len(unlabelled(tmp_path)) == 4 * len(names)


@pytest.mark.parametrize("folders", [("assets", "figures"), ("images",), ("figures",)])
def test_shards_beside_figures_alone_are_a_question(tmp_path: Path, folders: tuple[str, ...]):
    make_classes(tmp_path, *folders)
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(4):
            archive.add(tmp_path / folders[0] / f"{number}.png", f"{number}.png")
    with pytest.raises(ValueError, match="--layout webdataset"):
        unlabelled(tmp_path)
    assert len(unlabelled(tmp_path, layout="webdataset")) == 4


def test_links_in_a_circle_are_named(tmp_path: Path):
    make_classes(tmp_path, "a", "b")
    (tmp_path / "a" / "one").symlink_to(tmp_path / "a" / "two")
    (tmp_path / "a" / "two").symlink_to(tmp_path / "a" / "one")
    (tmp_path / "a" / "@self").symlink_to(tmp_path / "a" / "@self")
    data = load_image_dataset(str(tmp_path))
    assert data.reading.ignored == {"broken links": ["a/@self", "a/one", "a/two"]}


@pytest.mark.parametrize("source", ["", " "])
def test_an_empty_name_is_not_the_working_directory(source: str):
    with pytest.raises(ValueError, match="--dataset is empty"):
        load_image_dataset(source)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is neither a file nor a folder"):
        load_image_dataset(str(tmp_path / "pipe"))


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_an_archive_that_cannot_be_read_among_classes_is_named(tmp_path: Path, content: bytes):
    make_classes(tmp_path, "a", "b")
    (tmp_path / "a" / "old.parquet").write_bytes(content)
    assert load_image_dataset(str(tmp_path)).reading.ignored == {"archives": ["a/old.parquet"]}
