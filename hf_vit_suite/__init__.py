"""Vision transformers the Hugging Face way.

Importing the package makes transformers' Auto classes open its models; torch is imported when a name is used.
"""

import importlib

from .registration import register_families
from .version import __version__

_EXPORTS = {
    "SuiteCLIPConfig": "models.configuration_clip",
    "SuiteCLIPModel": "models.modeling_clip",
    "SuiteCLIPTextConfig": "models.configuration_clip",
    "SuiteCLIPTextModel": "models.clip_towers",
    "SuiteCLIPTextModelWithProjection": "models.modeling_clip",
    "SuiteCLIPVisionBackbone": "models.clip_towers",
    "SuiteCLIPVisionConfig": "models.configuration_clip",
    "SuiteCLIPVisionModel": "models.clip_towers",
    "SuiteCLIPVisionModelWithProjection": "models.modeling_clip",
    "SuiteDINOBackbone": "models.modeling_dino",
    "SuiteDINOConfig": "models.configuration_dino",
    "SuiteDINOForPreTraining": "models.modeling_dino",
    "SuiteDINOModel": "models.modeling_dino",
    "SuiteMAEBackbone": "models.modeling_mae",
    "SuiteMAEConfig": "models.configuration_mae",
    "SuiteMAEForPreTraining": "models.modeling_mae",
    "SuiteMAEModel": "models.modeling_mae",
    "SuiteViTBackbone": "models.modeling_vit",
    "SuiteViTConfig": "models.configuration_vit",
    "SuiteViTForImageClassification": "models.modeling_vit",
    "SuiteViTModel": "models.modeling_vit",
    "check": "data.checking",
    "evaluate": "evaluation.evaluate",
    "finetune": "training.recipe",
    "list_presets": "models.presets",
    "load": "conversion",
    "predict": "inference.prediction",
    "preset_config": "models.presets",
    "pretrain": "training.recipe",
}


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *_EXPORTS]


register_families()

__all__ = ["__version__", *_EXPORTS]
