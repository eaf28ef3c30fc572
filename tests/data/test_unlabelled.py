"""Images without labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Image
from PIL import Image as Pillow
from torch.utils.data import default_collate
from transformers import ViTImageProcessor

from hf_vit_suite.data import (
    AugmentedImages,
    MaskedImageTransform,
    decode_image,
    evaluation_transform,
    load_unlabelled_images,
    training_transform,
)


def save_pictures(folder: Path, number: int, shade: int = 0) -> list[Path]:
    """Grey pictures, each of its own shade."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(number)]
    for index, path in enumerate(paths):
        Pillow.new("RGB", (20, 16), (shade + index,) * 3).save(path)
    return paths


def shades(rows) -> list[int]:
    """The grey of each row's picture."""
    return sorted(np.asarray(decode_image(row["image"]))[0, 0, 0].item() for row in rows)


def test_pictures_are_found_in_a_folder_and_below_it(tmp_path: Path):
    save_pictures(tmp_path, 2)
    save_pictures(tmp_path / "a" / "b", 3, shade=10)
    save_pictures(tmp_path / ".hidden", 1, shade=100)
    assert shades(load_unlabelled_images(str(tmp_path)).rows) == [0, 1, 10, 11, 12]
    assert shades(load_unlabelled_images(str(tmp_path), streaming=True).rows) == [0, 1, 10, 11, 12]


def test_only_the_train_folder_is_read_where_there_is_one(tmp_path: Path):
    save_pictures(tmp_path / "train" / "cats", 2)
    save_pictures(tmp_path / "test" / "cats", 3, shade=10)
    assert shades(load_unlabelled_images(str(tmp_path)).rows) == [0, 1]


def test_parquet_needs_no_label_column(tmp_path: Path):
    paths = save_pictures(tmp_path / "pictures", 3)
    rows = Dataset.from_dict({"picture": [str(path) for path in paths]}).cast_column("picture", Image())
    rows.to_parquet(str(tmp_path / "train.parquet"))
    assert shades(load_unlabelled_images(str(tmp_path / "train.parquet")).rows) == [0, 1, 2]
    named = load_unlabelled_images(str(tmp_path / "train.parquet"), image_column="picture")
    assert named.rows.column_names == ["image"]
    with pytest.raises(ValueError, match=r"no column 'photo'.*picture"):
        load_unlabelled_images(str(tmp_path / "train.parquet"), image_column="photo")


def test_folder_without_a_picture_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no image in this folder or below"):
        load_unlabelled_images(str(tmp_path))


def test_mask_and_crop_of_a_row_follow_seed_epoch_and_row_alone(tmp_path: Path):
    save_pictures(tmp_path, 3)
    processor = ViTImageProcessor(size={"height": 16, "width": 24})
    transform = MaskedImageTransform(training_transform(processor), patch_size=4)
    rows = AugmentedImages(load_unlabelled_images(str(tmp_path)).rows, transform, seed=1)
    first = [rows[index]["noise"] for index in range(3)]
    assert first[0].shape == (24,)
    torch.rand(5)
    assert all(torch.equal(rows[index]["noise"], first[index]) for index in (2, 0, 1))
    assert not torch.equal(first[0], first[1])
    rows.set_epoch(1)
    assert not torch.equal(rows[0]["noise"], first[0])


def test_batch_is_what_the_model_takes(tmp_path: Path):
    save_pictures(tmp_path, 2)
    processor = ViTImageProcessor(size={"height": 16, "width": 24})
    rows = load_unlabelled_images(str(tmp_path)).rows
    transformed = rows.with_transform(MaskedImageTransform(evaluation_transform(processor), patch_size=8))
    batch = default_collate([transformed[0], transformed[1]])
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        "pixel_values": (2, 3, 16, 24),
        "noise": (2, 6),
    }
