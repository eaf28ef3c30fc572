"""Options of reading images that every command shares."""

from dataclasses import dataclass, field
from typing import Any

from .decoding import allow_pixels
from .layout import Layout


@dataclass
class LayoutArguments:
    """What a source of images is, where that is not clear."""

    image_column: str | None = field(
        default=None,
        metadata={"help": "column of the images, or of their file names in a table; default found by type and name"},
    )
    layout: Layout | None = field(
        default=None,
        metadata={
            "help": "what a folder is, where that is not clear: class_folders, leaf_folders (the folder of each image "
            "is its class), images, metadata (a table), parquet, webdataset or idx"
        },
    )
    split_names: list[str] | None = field(
        default=None,
        metadata={"help": "the source's names of the splits, e.g. train=Train test=Holdout; default the usual names"},
    )
    max_image_pixels: int | None = field(
        default=None, metadata={"help": "pixels above which an image is unreadable; default Pillow's, 89 million"}
    )


@dataclass
class SourceArguments(LayoutArguments):
    """How a source of images is read."""

    strict_images: bool = field(
        default=False,
        metadata={"help": "stop at images that are unreadable or have no label or caption, else skip them"},
    )

    def source_options(self) -> dict[str, Any]:
        """The keywords of the loaders; also sets the largest image.

        Raises:
            ValueError: If the largest image has no pixel.
        """
        allow_pixels(self.max_image_pixels)
        return {name: getattr(self, name) for name in ("image_column", "layout", "split_names", "strict_images")}
