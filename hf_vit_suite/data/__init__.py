"""Images in: loading, tolerant decoding, augmentation, batches."""

from .augmentation import (
    AugmentedImages,
    ImageTransform,
    MaskedImageTransform,
    RowTransform,
    apply_transform,
    evaluation_transform,
    input_size,
    training_transform,
)
from .collation import ImageMixer, collate_images
from .decoding import ImageDecodingError, decode_image
from .loading import LabelledImages, UnlabelledImages, load_image_dataset, load_unlabelled_images, split_off
from .multi_crop import MultiCropTransform, multi_crop_transform

__all__ = [
    "AugmentedImages",
    "ImageDecodingError",
    "ImageMixer",
    "ImageTransform",
    "LabelledImages",
    "MaskedImageTransform",
    "MultiCropTransform",
    "RowTransform",
    "UnlabelledImages",
    "apply_transform",
    "collate_images",
    "decode_image",
    "evaluation_transform",
    "input_size",
    "load_image_dataset",
    "load_unlabelled_images",
    "multi_crop_transform",
    "split_off",
    "training_transform",
]
