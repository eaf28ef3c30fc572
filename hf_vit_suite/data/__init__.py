"""Images in: loading, tolerant decoding, augmentation, batches."""

from .augmentation import ImageTransform, apply_transform, evaluation_transform, input_size, training_transform
from .collation import ImageClassificationCollator
from .decoding import ImageDecodingError, decode_image
from .loading import LabelledImages, load_image_dataset

__all__ = [
    "ImageClassificationCollator",
    "ImageDecodingError",
    "ImageTransform",
    "LabelledImages",
    "apply_transform",
    "decode_image",
    "evaluation_transform",
    "input_size",
    "load_image_dataset",
    "training_transform",
]
