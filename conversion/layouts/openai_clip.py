"""OpenAI's CLIP archives (arXiv 2103.00020): TorchScript with weights mostly in float16.

Source: https://github.com/openai/CLIP, `clip/model.py` and `clip/clip.py`. Export writes a plain .pt of the same
tensors, which `clip.load` also accepts. The activation is QuickGELU.
"""

import torch

from hf_vit_suite.models.configuration_clip import SuiteCLIPConfig
from hf_vit_suite.models.modeling_clip import SuiteCLIPModel

from ..layout import Evidence, Form, Layout
from ..rules import Rule, constant
from . import open_clip


def rules(config: SuiteCLIPConfig) -> list[Rule]:
    """open_clip's rules, and the three integers that OpenAI's files also store."""
    numbers = {
        "input_resolution": config.vision_config.image_height_width[0],
        "context_length": config.text_config.max_position_embeddings,
        "vocab_size": config.text_config.vocab_size,
    }
    return [
        *[constant(name, torch.tensor(value), f"{value}, as the shapes tell") for name, value in numbers.items()],
        *open_clip.rules(config),
    ]


def heads_told_by_widths(evidence: Evidence, vision_width: int, text_width: int) -> open_clip.ToldHeads:
    """Heads of both towers, computed from widths as in OpenAI's code: 64 channels per head."""
    return vision_width // open_clip.HEAD_WIDTH or None, text_width // open_clip.HEAD_WIDTH or None


def has_told_heads(config: SuiteCLIPConfig) -> bool:
    """Whether OpenAI's code computes the right number of heads from both widths."""
    return all(
        tower.num_attention_heads == tower.hidden_size // open_clip.HEAD_WIDTH
        for tower in (config.vision_config, config.text_config)
    )


def config(evidence: Evidence) -> SuiteCLIPConfig:
    """open_clip's configuration, with QuickGELU."""
    found = open_clip.config(evidence, heads_told_by_widths)
    for tower in (found.vision_config, found.text_config):
        tower.hidden_act = "quick_gelu"
    return found


LAYOUT = Layout(
    name="openai-clip",
    forms=(
        Form(
            name="both towers",
            model=SuiteCLIPModel,
            recognises=lambda evidence: open_clip.is_clip(evidence) and evidence.has("input_resolution"),
            config=config,
            rules=rules,
            holds=lambda config: (
                open_clip.holds(config)
                and has_told_heads(config)
                and config.loss_type == "softmax"
                and config.vision_config.hidden_act == config.text_config.hidden_act == "quick_gelu"
            ),
            suffix=".pt",
        ),
    ),
    image_processor=open_clip.image_processor,
    package="open_clip",
)
