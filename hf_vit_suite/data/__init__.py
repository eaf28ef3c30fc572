"""Image and caption data: loading, tolerant decoding, augmentation, tokenization, collation."""

from .arguments import SourceArguments
from .augmentation import (
    ImageTransform,
    MaskedImageTransform,
    RowTransform,
    evaluation_transform,
    input_size,
    seeded,
    training_transform,
)
from .captions import (
    CaptionCollator,
    CaptionedImages,
    CaptionedImageTransform,
    captions_of_labels,
    count_cut_captions,
    load_captioned_images,
)
from .collation import ImageMixer, collate_images
from .decoding import ImageDecodingError, decode_image
from .loading import LabelledImages, UnlabelledImages, load_image_dataset, load_unlabelled_images, split_off
from .multi_crop import MultiCropTransform, multi_crop_transform
from .objects import Source, dataset_name
from .rows import AugmentedImages, ReadableRows, apply_transform, has_label, warn_of_unreadable
from .streaming import AugmentedStream
from .tokenization import train_tokenizer

__all__ = [
    "AugmentedImages",
    "AugmentedStream",
    "CaptionCollator",
    "CaptionedImageTransform",
    "CaptionedImages",
    "ImageDecodingError",
    "ImageMixer",
    "ImageTransform",
    "LabelledImages",
    "MaskedImageTransform",
    "MultiCropTransform",
    "ReadableRows",
    "RowTransform",
    "Source",
    "SourceArguments",
    "UnlabelledImages",
    "apply_transform",
    "captions_of_labels",
    "collate_images",
    "count_cut_captions",
    "dataset_name",
    "decode_image",
    "evaluation_transform",
    "has_label",
    "input_size",
    "load_captioned_images",
    "load_image_dataset",
    "load_unlabelled_images",
    "multi_crop_transform",
    "seeded",
    "split_off",
    "train_tokenizer",
    "training_transform",
    "warn_of_unreadable",
]
