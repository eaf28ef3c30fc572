"""Images in: loading, tolerant decoding, augmentation, batches."""

from .augmentation import (
    AugmentedImages,
    ImageTransform,
    MaskedImageTransform,
    apply_transform,
    evaluation_transform,
    input_size,
    training_transform,
)
from .collation import ImageMixer, collate_images
from .decoding import ImageDecodingError, decode_image
from .loading import LabelledImages, UnlabelledImages, load_image_dataset, load_unlabelled_images, split_off

__all__ = [
    "AugmentedImages",
    "ImageDecodingError",
    "ImageMixer",
    "ImageTransform",
    "LabelledImages",
    "MaskedImageTransform",
    "UnlabelledImages",
    "apply_transform",
    "collate_images",
    "decode_image",
    "evaluation_transform",
    "input_size",
    "load_image_dataset",
    "load_unlabelled_images",
    "split_off",
    "training_transform",
]
