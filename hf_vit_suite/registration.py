"""Registers the families with transformers' Auto classes, at once or as soon as transformers is imported.

Registering needs the classes themselves, and these need torch, which takes seconds to import. A command that prints
its help must not wait for that, so the registration is part of the import of transformers.
"""

import importlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple


class Family(NamedTuple):
    """What the Auto classes need for a configuration class.

    Args:
        module: The end of its `configuration_*.py` and `modeling_*.py`.
        config: Name of the configuration class.
        image_processor: transformers' class that prepares its images.
        tokenizer: transformers' class that prepares its texts.
        processor: transformers' class that joins both.
    """

    module: str
    config: str
    image_processor: str | None = None
    tokenizer: str | None = None
    processor: str | None = None


FAMILIES = (
    Family("vit", "SuiteViTConfig", "ViTImageProcessor"),
    Family("mae", "SuiteMAEConfig", "ViTImageProcessor"),
    Family("dino", "SuiteDINOConfig", "ViTImageProcessor"),
    Family("clip", "SuiteCLIPConfig", "CLIPImageProcessor", "CLIPTokenizer", "CLIPProcessor"),
    Family("clip", "SuiteCLIPVisionConfig", "CLIPImageProcessor"),
    Family("clip", "SuiteCLIPTextConfig", tokenizer="CLIPTokenizer"),
)


def register_all() -> None:
    """Registers every family with every Auto class; imports torch."""
    import transformers

    for family in FAMILIES:
        register_config(family, transformers)
    for module in dict.fromkeys(family.module for family in FAMILIES):
        modeling = importlib.import_module(f"hf_vit_suite.models.modeling_{module}")
        for auto_class, model in modeling.AUTO_CLASSES:
            getattr(transformers, auto_class).register(model.config_class, model, exist_ok=True)
    open_our_folders(transformers.AutoBackbone)


def register_config(family: Family, transformers: ModuleType) -> None:
    """Registers a configuration class, and what prepares the inputs of its models."""
    configuration = importlib.import_module(f"hf_vit_suite.models.configuration_{family.module}")
    config = getattr(configuration, family.config)
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    if (name := family.image_processor) is not None:
        backends = {"torchvision": name, "pil": f"{name}Pil"}
        classes = {backend: getattr(transformers, name) for backend, name in backends.items()}
        transformers.AutoImageProcessor.register(config, image_processor_classes=classes, exist_ok=True)
    if family.tokenizer is not None:
        tokenizer = getattr(transformers, family.tokenizer)
        transformers.AutoTokenizer.register(config, tokenizer_class=tokenizer, exist_ok=True)
    if family.processor is not None:
        transformers.AutoProcessor.register(config, getattr(transformers, family.processor), exist_ok=True)


def open_our_folders(auto_backbone: type) -> None:
    """Lets AutoBackbone open folders of the suite, as the other Auto classes do.

    transformers (5.23, 5.24) first asks the Hub whether a repository of that name exists, which fails for any path.
    Names and folders of other models use transformers' own method.
    """
    from_hub = auto_backbone.from_pretrained

    def from_pretrained(cls: type, name: str | os.PathLike, *args, **kwargs):
        if os.path.isdir(name) and is_ours(name):
            return super(auto_backbone.__base__, cls).from_pretrained(name, *args, **kwargs)
        return from_hub(name, *args, **kwargs)

    auto_backbone.from_pretrained = classmethod(from_pretrained)


def is_ours(folder: str | os.PathLike) -> bool:
    """Whether a folder holds a model of the suite."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(folder)
    return str(config.get("model_type", "")).startswith("suite_")


class RegisteringLoader(Loader):
    """Loads transformers with its own loader, then registers the families before anybody else can use it."""

    def __init__(self, loader: Loader, finder: MetaPathFinder):
        self.loader = loader
        self.finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks for the module's source or resources asks its loader.
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        register_all()
        sys.meta_path.remove(self.finder)


class TransformersFinder(MetaPathFinder):
    """Finds transformers, and nothing else."""

    def find_spec(self, name: str, path, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers":
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        spec = next((spec for finder in others if (spec := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader, self)
        return spec


def register_families() -> None:
    """Registers at once if transformers is imported already, else when it is."""
    if "transformers" in sys.modules:
        register_all()
    elif not any(isinstance(finder, TransformersFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TransformersFinder())
