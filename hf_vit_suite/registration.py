"""Makes transformers' Auto classes know the families, without importing torch until somebody uses them.

`AutoConfig.register` and its siblings need the classes themselves, and those need torch, which takes seconds to
import. So the registration waits until a module that holds an Auto class is loaded, and with it every module that was
loading it: the families' own files import some of those.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NamedTuple


class Family(NamedTuple):
    """What the Auto classes are told of a configuration class.

    Args:
        module: The end of its `configuration_*.py` and `modeling_*.py`.
        config: The configuration class.
        image_processor: transformers' class that prepares its images.
        tokenizer: transformers' class that prepares its texts.
        processor: transformers' class that joins both.
    """

    module: str
    config: str
    image_processor: str | None = None
    tokenizer: str | None = None
    processor: str | None = None

    @property
    def config_class(self) -> type:
        """The configuration class itself."""
        return getattr(importlib.import_module(f"hf_vit_suite.models.configuration_{self.module}"), self.config)


FAMILIES = (
    Family("vit", "SuiteViTConfig", "ViTImageProcessor"),
    Family("mae", "SuiteMAEConfig", "ViTImageProcessor"),
    Family("dino", "SuiteDINOConfig", "ViTImageProcessor"),
    Family("clip", "SuiteCLIPConfig", "CLIPImageProcessor", "CLIPTokenizer", "CLIPProcessor"),
    Family("clip", "SuiteCLIPVisionConfig", "CLIPImageProcessor"),
    Family("clip", "SuiteCLIPTextConfig", tokenizer="CLIPTokenizer"),
)


def register_configs(auto: ModuleType) -> None:
    """Adds every family to AutoConfig."""
    for family in FAMILIES:
        auto.AutoConfig.register(family.config_class.model_type, family.config_class, exist_ok=True)


def register_models(auto: ModuleType) -> None:
    """Adds every family to the Auto classes that its modeling file names in `AUTO_CLASSES`."""
    for module in dict.fromkeys(family.module for family in FAMILIES):
        modeling = importlib.import_module(f"hf_vit_suite.models.modeling_{module}")
        for auto_class, model in modeling.AUTO_CLASSES:
            getattr(auto, auto_class).register(model.config_class, model, exist_ok=True)
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
    """Adds the families of images to AutoImageProcessor."""
    for family in FAMILIES:
        if name := family.image_processor:
            backends = {"torchvision": name, "pil": f"{name}Pil"}
            classes = {backend: auto.get_image_processor_class_from_name(name) for backend, name in backends.items()}
            auto.AutoImageProcessor.register(family.config_class, image_processor_classes=classes, exist_ok=True)


def register_tokenizers(auto: ModuleType) -> None:
    """Adds the families of texts to AutoTokenizer."""
    for family in FAMILIES:
        if family.tokenizer:
            tokenizer = auto.tokenizer_class_from_name(family.tokenizer)
            auto.AutoTokenizer.register(family.config_class, tokenizer_class=tokenizer, exist_ok=True)


def register_processors(auto: ModuleType) -> None:
    """Adds the families of both to AutoProcessor."""
    for family in FAMILIES:
        if family.processor:
            processor = auto.processor_class_from_name(family.processor)
            auto.AutoProcessor.register(family.config_class, processor, exist_ok=True)


REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": register_configs,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.image_processing_auto": register_image_processors,
    "transformers.models.auto.tokenization_auto": register_tokenizers,
    "transformers.models.auto.processing_auto": register_processors,
}


class Loading(threading.local):
    """What a thread is loading: how many watched modules are half loaded, and the Auto modules that wait for them."""

    def __init__(self):
        self.depth = 0
        self.waiting: list[str] = []


LOADING = Loading()


class RegisteringLoader(Loader):
    """Loads a module as its own loader does; once no watched module is half loaded, the families are registered."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks for a module's source or resources asks its loader.
        module.__spec__.loader = module.__loader__ = self.loader
        LOADING.depth += 1
        try:
            self.loader.exec_module(module)
            if module.__name__ in REGISTRATIONS:
                LOADING.waiting.append(module.__name__)
        finally:
            LOADING.depth -= 1
            if not LOADING.depth:
                register_waiting()


class RegisteringFinder(MetaPathFinder):
    """Finds the modules that hold Auto classes and those that may be loading them, and watches how they load."""

    def find_spec(self, name: str, path, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "transformers" and not name.startswith(("transformers.", "hf_vit_suite.models.")):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = RegisteringLoader(spec.loader)
        return spec


def register_waiting() -> None:
    """Registers with every Auto module that waits."""
    while LOADING.waiting:
        name = LOADING.waiting.pop(0)  # first: registering with one may load another
        REGISTRATIONS[name](sys.modules[name])


def register_families() -> None:
    """Registers with Auto modules that are loaded already, and with the others once they are."""
    if any(isinstance(finder, RegisteringFinder) for finder in sys.meta_path):
        return
    LOADING.waiting.extend(name for name in REGISTRATIONS if name in sys.modules)
    sys.meta_path.insert(0, RegisteringFinder())
    register_waiting()
