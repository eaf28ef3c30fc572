"""Facts about the presets, measured on models without weights."""

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForImageClassification, PretrainedConfig

from .presets import list_presets, preset_config


def preset_rows(match: str = "") -> list[dict]:
    """Facts about each preset whose name contains `match`, measured on models without weights.

    Returns:
        One dict per preset: name, parameters (head included, if the preset has one), gflops (billions of
        multiply-adds of the encoder for one image at `image_size`, as papers count them), image_size (height in
        pixels), patch_size (pixels), width, depth, heads. For CLIP, all but the parameters are the image tower's.

    Raises:
        ValueError: If no name matches.
    """
    names = [name for name in list_presets() if match in name]
    if not names:
        raise ValueError(f"no preset's name contains {match!r}: `hf-vit-suite models` lists them all")
    return [preset_row(name, preset_config(name)) for name in names]


def preset_row(name: str, config: PretrainedConfig) -> dict:
    """One row of `preset_rows`."""
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
