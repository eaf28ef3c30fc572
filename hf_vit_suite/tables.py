"""Tables for the terminal."""

from collections.abc import Sequence

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForImageClassification, PretrainedConfig

from .models.presets import list_presets, preset_config


def preset_rows(match: str = "") -> list[dict]:
    """Facts about each preset whose name contains `match`, measured on weightless models.

    Returns:
        For each: name, parameters (with the head where the preset has one), gflops (billions of multiply-adds of the
        encoder for one image at `image_size`, as papers count them), image_size, patch_size, width, depth, heads; of
        two towers all but the parameters are the image tower's.

    Raises:
        ValueError: If no name matches.
    """
    names = [name for name in list_presets() if match in name]
    if not names:
        raise ValueError(f"no preset's name contains {match!r}: `hf-vit-suite models` lists them all")
    return [preset_row(name, preset_config(name)) for name in names]


def preset_row(name: str, config: PretrainedConfig) -> dict:
    """One architecture's facts."""
    has_two_towers = hasattr(config, "vision_config")
    of_images = config.vision_config if has_two_towers else config
    with torch.device("meta"):
        is_classifier = config.num_labels and not has_two_towers
        model = (AutoModelForImageClassification if is_classifier else AutoModel).from_config(config).eval()
        pixel_values = torch.empty(1, of_images.num_channels, *of_images.image_height_width)
    encoder = model.vision_model if has_two_towers else model.base_model
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(pixel_values)
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "gflops": round(counter.get_total_flops() / 2e9, 2),
        "image_size": of_images.image_height_width[0],
        "patch_size": of_images.patch_size,
        "width": of_images.hidden_size,
        "depth": of_images.num_hidden_layers,
        "heads": of_images.num_attention_heads,
    }


def print_presets(rows: Sequence[dict]) -> None:
    """The presets as a table."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("M params", "GFLOPs", "image", "patch", "width", "depth", "heads"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['gflops']:.2f}",
            *(str(row[name]) for name in ("image_size", "patch_size", "width", "depth", "heads")),
        )
    Console().print(table)
    print("GFLOPs are billions of multiply-adds of the encoder for one image, as papers count them.")


def print_predictions(predictions: Sequence[dict]) -> None:
    """Predictions as a table, an image's labels below one another."""
    table = Table(box=SIMPLE)
    table.add_column("image", overflow="fold")
    table.add_column("label", overflow="fold")
    values = any("value" in entry for prediction in predictions for entry in prediction["labels"])
    table.add_column("value" if values else "probability", justify="right")
    for prediction in predictions:
        name = prediction["image"]
        for entry in prediction["labels"]:
            score = f"{entry['value']:.4g}" if values else f"{entry['probability']:.4f}"
            table.add_row(name, entry["label"], score)
            name = ""
        table.add_section()
    # Names are no markup: neither [bold] nor :smile: in them means anything.
    Console(markup=False, emoji=False).print(table)
