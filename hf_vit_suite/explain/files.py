"""Explains a saved model's output on image files; implements `hf-vit-suite explain`."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    PreTrainedModel,
)

from .. import explain
from ..data import decode_image
from ..inference.opening import best_device, is_classifier, open_pretrained
from ..inference.scores import prediction_title
from ..inference.two_towers import open_two_towers
from ..models.configuration_mae import SuiteMAEConfig
from ..models.embedding import round_to_multiple
from ..names import file_name
from ..output import drawing, staged_file, staged_folder
from .encoders import image_encoder, resize_map
from .figures import head_names
from .reconstruction import visible_and_painted

FORMATS = ("png", "svg", "npy", "gif")
FRAME_MILLISECONDS = 500
FIGURE_DPI = 150


@dataclass(frozen=True)
class Explainer:
    """A model with its image processor, texts and method options.

    Args:
        model: Model to explain, in evaluation mode.
        processor: The model's image processor.
        texts: For CLIP, the texts whose match is explained.
        input_ids: Token ids of the texts, `[texts, tokens]`.
        options: Options of the method.
    """

    model: PreTrainedModel
    processor: Callable
    texts: Sequence[str] = ()
    input_ids: Tensor | None = None
    options: Mapping = field(default_factory=dict)


# One image's maps on the patch grid: a boolean mask or values `[rows, columns]`, or colours `[3, rows, columns]`.
# Reconstructions are colours at pixel resolution.
Panels = list[Tensor]


def attention_panels(explainer: Explainer, pixel_values: Tensor) -> Panels:
    """Attention of the chosen head; by default the mean over heads, then each head."""
    options = dict(explainer.options)
    if "head" in options:
        return [explain.attention_maps(explainer.model, pixel_values, resize=False, **options)[0]]
    heads = explain.class_token_attention(explainer.model, pixel_values, **options)[0]
    return [heads.mean(dim=0), *heads]


def one_panel(compute: Callable[..., Tensor]) -> Callable[[Explainer, Tensor], Panels]:
    """Wraps an `explain` function that returns one map per image."""
    return lambda explainer, pixel_values: [
        compute(explainer.model, pixel_values, resize=False, **explainer.options)[0]
    ]


def panel_a_text(compute: Callable[..., Tensor]) -> Callable[[Explainer, Tensor], Panels]:
    """Wraps an `explain` function that explains a class, or each of the texts if there are any."""

    def panels(explainer: Explainer, pixel_values: Tensor) -> Panels:
        options = dict(explainer.options)
        if explainer.input_ids is not None:
            pixel_values = pixel_values.expand(len(explainer.input_ids), -1, -1, -1)
            options["input_ids"] = explainer.input_ids
        return list(compute(explainer.model, pixel_values, resize=False, **options))

    return panels


def similarity_panels(explainer: Explainer, pixel_values: Tensor) -> Panels:
    """Similarity to the patch at `point`, given as fractions of width and height (default the centre)."""
    options = dict(explainer.options)
    height, width = pixel_values.shape[-2:]
    across, down = options.pop("point", (0.5, 0.5))
    if not (0 <= across < 1 and 0 <= down < 1):
        raise ValueError(f"--point must be shares from 0 to below 1, got {across} {down}")
    point = (int(across * width), int(down * height))
    return [explain.patch_similarity(explainer.model, pixel_values, point, resize=False, **options)[0]]


def reconstruction_panels(explainer: Explainer, pixel_values: Tensor) -> Panels:
    """The visible patches and the reconstruction of a masked autoencoder; images of one size share a mask."""
    rows, columns = image_encoder(explainer.model).grid(pixel_values)
    noise = torch.rand(1, rows * columns, generator=torch.Generator().manual_seed(0)).to(pixel_values.device)
    *panels, _ = visible_and_painted(explainer.model, pixel_values, noise, explainer.processor)
    return [torch.from_numpy(images[0]).permute(2, 0, 1) for images in panels]


PANELS: dict[str, Callable[[Explainer, Tensor], Panels]] = {
    "attention": attention_panels,
    "rollout": one_panel(explain.rollout),
    "relevance": panel_a_text(explain.relevance),
    "gradient": panel_a_text(explain.attention_gradient),
    "similarity": similarity_panels,
    "mask": one_panel(explain.mass_masks),
    "reconstruction": reconstruction_panels,
}
LABELS = {
    "attention": "attention",
    "rollout": "attention rollout",
    "relevance": "relevance",
    "gradient": "attention x gradient",
    "similarity": "cosine",
}
# Options of each method.
OPTIONS = {
    "attention": ("layer", "head"),
    "rollout": ("layer", "fusion", "discard_ratio"),
    "relevance": ("layer", "target", "texts"),
    "gradient": ("layer", "head", "target", "texts"),
    "similarity": ("layer", "point"),
    "pca": ("layer",),
    "mask": ("layer", "head", "mass"),
    "reconstruction": (),
}


def explain_files(
    model_name: str,
    paths: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    method: str | None = None,
    file_format: str | None = None,
    **options,
) -> list[Path]:
    """Explains a model on image files and writes the maps or figures.

    Args:
        model_name: Folder or Hub name.
        paths: Image files of any size; each is resized but never cropped, even if the model's processor crops.
        out: A file for one figure of all images, or a folder (no suffix) for an overlay per image at the image's
            resolution and the figure `grid`.
        method: A key of `OPTIONS`; default `"relevance"` with texts, else `"attention"`.
        file_format: One of `FORMATS`; default the suffix of `out`, or png for a folder. npy stores the maps
            `[panels, height, width]` (colours `[panels, 3, height, width]`) at the image's resolution; a single file
            adds a leading image axis. gif shows one layer per frame.
        **options: Options of the method: `layer`, `head`, `target` (class number or name), `texts`, `point`
            (fractions of width and height), `fusion`, `discard_ratio`, `mass`; None means not given.

    Returns:
        Paths of the written files.

    Raises:
        ValueError: If the method does not support the model, an option is invalid, or an image can't be read.
    """
    options = {name: value for name, value in options.items() if value is not None}
    method = method or ("relevance" if "texts" in options else "attention")
    if unknown := [name for name in options if name not in OPTIONS[method]]:
        raise ValueError(f"--{unknown[0].replace('texts', 'text')} is no option of --method {method}")
    out = Path(out)
    suffix = "" if out.is_dir() else out.suffix[1:]
    file_format = file_format or suffix or "png"
    if file_format not in FORMATS or suffix not in ("", file_format):
        raise ValueError(f"{out} can't be written: explanations are files or folders of {', '.join(FORMATS)}")
    if file_format == "gif" and "layer" not in OPTIONS[method]:
        raise ValueError(f"--format gif shows layer after layer, and --method {method} has none")
    pictures = [decode_image(path) for path in paths]
    explainer = open_explainer(model_name, method, options)
    batches = [see(explainer, picture) for picture in pictures]
    titles = [title(explainer, pixels, path) for pixels, path in zip(batches, paths, strict=True)]
    frames = list(explanations(explainer, method, batches, by_layer=file_format == "gif"))
    sheet = Sheet(pictures, titles, method, explainer.texts)
    if suffix:
        with staged_file(out) as staged:
            sheet.write(frames, staged)
        return [out]
    return write_folder(sheet, frames, output_names(paths, file_format), out, file_format)


def open_explainer(model_name: str, method: str, options: dict) -> Explainer:
    """Loads the model and processor for a method, on an accelerator if there is one.

    Raises:
        ValueError: If the model does not exist, or the method does not support it.
    """
    config, options = open_pretrained(AutoConfig, model_name), dict(options)
    texts = options.pop("texts", ())
    if texts:
        towers = open_two_towers(model_name)
        input_ids = towers.tokenize(texts).input_ids
        return Explainer(towers.model, towers.image_processor, texts, input_ids, options)
    auto_class = AutoModelForImageClassification if is_classifier(config) else AutoModel
    if method == "reconstruction":
        if not isinstance(config, SuiteMAEConfig):
            raise ValueError(
                f"{model_name} reconstructs nothing: it is no masked autoencoder but a {config.model_type}"
            )
        auto_class = AutoModelForPreTraining
    model = open_pretrained(auto_class, model_name).eval().to(best_device())
    if "target" in options:
        options["target"] = class_number(model, options["target"])
    return Explainer(model, open_pretrained(AutoImageProcessor, model_name), options=options)


def class_number(model: PreTrainedModel, target: str | int) -> int:
    """Converts a class name or number to the class number.

    Raises:
        ValueError: If the class does not exist.
    """
    names = model.config.id2label
    number = {name: number for number, name in names.items()}.get(str(target))
    if number is None and str(target).isdigit() and int(target) in names:
        number = int(target)
    if number is None:
        raise ValueError(f"the model has no class {target!r}: it knows {', '.join(list(names.values())[:5])}, ...")
    return number


def see(explainer: Explainer, picture: Image.Image) -> Tensor:
    """Converts an image to pixel values `[1, channels, height, width]`, resized like the processor but not cropped.

    Sides are rounded to multiples of the patch size; position embeddings are resized to match.
    """
    processor = explainer.processor
    size = processor.size if processor.do_resize else {}
    width, height = picture.size
    if size.get("shortest_edge"):
        scale = size["shortest_edge"] / min(width, height)
        width, height = width * scale, height * scale
    elif size.get("height"):
        width, height = size["width"], size["height"]
    patch_size = image_encoder(explainer.model).module.config.patch_size
    whole = {"height": round_to_multiple(height, patch_size), "width": round_to_multiple(width, patch_size)}
    inputs = processor([picture], size=whole, do_resize=True, do_center_crop=False, return_tensors="pt")
    return inputs.pixel_values.to(explainer.model.device)


@torch.no_grad()
def title(explainer: Explainer, pixel_values: Tensor, path: str | os.PathLike) -> str:
    """Returns the best text or the predicted class, or the file's name if the model has neither."""
    if explainer.input_ids is not None:
        images = pixel_values.expand(len(explainer.texts), -1, -1, -1)
        cosine, number = explain.text_scores(explainer.model, images, explainer.input_ids).max(dim=0)
        return f"{explainer.texts[number]} ({cosine:.2f})"
    if not explain.has_classes(explainer.model):
        return Path(path).name
    return prediction_title(explain.classify(explainer.model, pixel_values)[0], explainer.model.config)


def explanations(
    explainer: Explainer, method: str, batches: Sequence[Tensor], by_layer: bool
) -> Iterator[tuple[str, list[Panels]]]:
    """Yields a name and each image's maps, once or per layer."""
    if not by_layer:
        yield "", all_panels(explainer, method, batches)
        return
    layers = range(image_encoder(explainer.model).depth)
    # Relevance accumulates from the last layer to the first.
    for layer in reversed(layers) if method == "relevance" else layers:
        at_layer = replace(explainer, options={**explainer.options, "layer": layer})
        yield f"layer {layer}", all_panels(at_layer, method, batches)


def all_panels(explainer: Explainer, method: str, batches: Sequence[Tensor]) -> list[Panels]:
    """Computes each image's maps; PCA colours are computed over all images together."""
    if method != "pca":
        return [PANELS[method](explainer, pixel_values) for pixel_values in batches]
    features = [explain.patch_features(explainer.model, pixels, **explainer.options)[0] for pixels in batches]
    return [[colours.cpu()] for colours in explain.as_colours(explain.principal_components(features))]


@dataclass(frozen=True)
class Sheet:
    """Draws and writes the maps of several images.

    Args:
        pictures: Images at their original resolution.
        titles: One title per image.
        method: A key of `OPTIONS`.
        texts: One text per map, if texts are explained.
    """

    pictures: Sequence[Image.Image]
    titles: Sequence[str]
    method: str
    texts: Sequence[str] = ()

    def figure(self, panels: Sequence[Panels], name: str = "") -> Figure:
        """Draws each image beside its maps."""
        names = self.names(len(panels[0]))
        if name:
            names = [f"{name}, {panel}" if panel else name for panel in names]
        return explain.figure(self.pictures, panels, self.titles, names, LABELS.get(self.method, ""))

    def names(self, panels: int) -> Sequence[str]:
        """Returns the names of an image's maps, given their number."""
        if self.texts:
            return self.texts
        if self.method == "reconstruction":
            return ["visible", "reconstruction"]
        return head_names(panels - 1) if panels > 1 else [LABELS.get(self.method, self.method)]

    def write(self, frames: Sequence[tuple[str, list[Panels]]], path: Path) -> None:
        """Writes all images to one file, in the format of its suffix."""
        if path.suffix == ".npy":
            arrays = [self.array(number, frames[0][1]) for number in range(len(self.pictures))]
            if len({array.shape for array in arrays}) > 1:
                raise ValueError("images of different sizes don't fit into one .npy: give a folder, without suffix")
            np.save(path, np.stack(arrays))
            return
        with drawing(path.name):
            if path.suffix == ".gif":
                save_gif([rendered(self.figure(panels, name)) for name, panels in frames], path)
            else:
                self.figure(frames[0][1]).savefig(path, dpi=FIGURE_DPI, bbox_inches="tight", pad_inches=0.05)

    def array(self, number: int, panels: Sequence[Panels]) -> np.ndarray:
        """Returns an image's maps at its resolution, `[panels, height, width]`, or `[panels, 3, height, width]`."""
        size = self.pictures[number].size[::-1]
        return torch.stack([resize_map(panel.detach().cpu(), size) for panel in panels[number]]).numpy()

    def overlay(self, number: int, panels: Sequence[Panels]) -> Image.Image:
        """Draws an image's first map over it, at the image's resolution."""
        drawn = explain.overlay(self.pictures[number], panels[number][0])
        return Image.fromarray((255 * drawn).round().astype(np.uint8))


def write_folder(
    sheet: Sheet, frames: Sequence[tuple[str, list[Panels]]], names: Sequence[str], out: Path, file_format: str
) -> list[Path]:
    """Writes one file per image and, except for npy, the figure `grid` of all images."""
    with staged_folder(out) as folder:
        for number, name in enumerate(names):
            path = folder / name
            if file_format == "npy":
                np.save(path, sheet.array(number, frames[0][1]))
            elif file_format == "gif":
                save_gif([sheet.overlay(number, panels) for _, panels in frames], path)
            elif file_format == "png":
                sheet.overlay(number, frames[0][1]).save(path)
            else:
                alone = Sheet([sheet.pictures[number]], [sheet.titles[number]], sheet.method, sheet.texts)
                alone.write([("", [frames[0][1][number]])], path)
        if file_format != "npy":
            sheet.write(frames, folder / f"grid.{file_format}")
        written = sorted(path.name for path in folder.iterdir())
    return [out / name for name in written]


def output_names(paths: Sequence[str | os.PathLike], file_format: str) -> list[str]:
    """Returns the output file name of each image; `grid` is reserved for the figure."""
    grid = f"grid.{file_format}"
    names = [grid]
    for path in paths:
        names.append(file_name(Path(path).stem, f".{file_format}", taken=names))
    return names[1:]


def rendered(figure: Figure) -> Image.Image:
    """Renders a figure on white: GIF has no partial transparency."""
    figure.patch.set(alpha=1, facecolor="white")
    figure.set_dpi(FIGURE_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def save_gif(images: Sequence[Image.Image], path: Path) -> None:
    """Writes an endlessly looping GIF of frames of one size; Pillow merges identical frames."""
    images[0].save(path, save_all=True, append_images=images[1:], duration=FRAME_MILLISECONDS, loop=0)
