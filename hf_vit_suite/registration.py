"""Makes transformers' Auto classes know the families, without importing torch until somebody uses them.

`AutoConfig.register` and its siblings need the classes themselves, and those need torch, which takes seconds to
import. So the registration waits: when a module that holds an Auto class finishes loading, the families join it.
"""

import importlib
import os
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

# One line a family: the end of `configuration_*.py` and `modeling_*.py`, the config class, the image processor.
FAMILIES = (
    ("vit", "SuiteViTConfig", "ViTImageProcessor"),
    ("mae", "SuiteMAEConfig", "ViTImageProcessor"),
    ("dino", "SuiteDINOConfig", "ViTImageProcessor"),
)


def config_class(family: str, name: str) -> type:
    """The family's configuration class."""
    return getattr(importlib.import_module(f"hf_vit_suite.models.configuration_{family}"), name)


def register_configs(auto: ModuleType) -> None:
    """Adds every family to AutoConfig."""
    for family, config, _ in FAMILIES:
        config = config_class(family, config)
        auto.AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """Adds every family to the Auto classes that its modeling file names in `AUTO_CLASSES`."""
    for family, config, _ in FAMILIES:
        modeling = importlib.import_module(f"hf_vit_suite.models.modeling_{family}")
        for auto_class, model in modeling.AUTO_CLASSES.items():
            getattr(auto, auto_class).register(config_class(family, config), model, exist_ok=True)
    open_folders(auto.AutoBackbone)


def open_folders(auto_backbone: type) -> None:
    """Lets AutoBackbone open a folder on disk, as the other Auto classes do.

    transformers 5.23 first asks the Hub whether a repository of that name exists, which fails for any path.
    """
    from_hub = auto_backbone.from_pretrained

    def from_pretrained(cls: type, name: str | os.PathLike, *args, **kwargs):
        if os.path.isdir(name):
            return super(auto_backbone.__base__, cls).from_pretrained(name, *args, **kwargs)
        return from_hub(name, *args, **kwargs)

    auto_backbone.from_pretrained = classmethod(from_pretrained)


def register_image_processors(auto: ModuleType) -> None:
    """Adds every family to AutoImageProcessor."""
    for family, config, processor in FAMILIES:
        backends = {"torchvision": processor, "pil": f"{processor}Pil"}
        classes = {backend: auto.get_image_processor_class_from_name(name) for backend, name in backends.items()}
        auto.AutoImageProcessor.register(config_class(family, config), image_processor_classes=classes, exist_ok=True)


REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": register_configs,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.image_processing_auto": register_image_processors,
}


class RegisteringLoader(Loader):
    """Loads a module as its own loader does, then registers the families with it."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        REGISTRATIONS[module.__name__](module)


class RegisteringFinder(MetaPathFinder):
    """Finds transformers' Auto modules and gives them a loader that registers the families."""

    def find_spec(self, name: str, path, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in REGISTRATIONS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


def register_families() -> None:
    """Registers with Auto modules that are loaded already, and with the others once they are."""
    for name, register in REGISTRATIONS.items():
        if name in sys.modules:
            register(sys.modules[name])
    if not any(isinstance(finder, RegisteringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, RegisteringFinder())
