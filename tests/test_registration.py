"""Importing the package is cheap, and transformers knows the families whatever is imported first."""

import ast
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, ViTImageProcessor, pipeline
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

import hf_vit_suite
from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification

MODELS = Path(hf_vit_suite.__file__).parent / "models"
# A checkpoint's code may import these alone, as it must run where the package is not installed.
ALLOWED = {"torch", "transformers", *sys.stdlib_module_names}

IMPORT_COST = """
import sys
before = set(sys.modules)
import hf_vit_suite
print(*sorted(name.partition(".")[0] for name in set(sys.modules) - before))
"""

IMPORT_ORDER = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import transformers
config = transformers.AutoConfig.for_model("suite_vit", hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
for auto_class in ("AutoModel", "AutoModelForImageClassification", "AutoBackbone"):
    getattr(transformers, auto_class).from_config(config)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
assert type(config) in IMAGE_PROCESSOR_MAPPING
"""


def test_import_loads_nothing_but_the_package_and_the_standard_library(run_python):
    loaded = run_python("-c", IMPORT_COST).stdout.split()
    assert loaded.count("hf_vit_suite") <= 5
    assert set(loaded) - {"hf_vit_suite"} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "modules",
    [
        ("hf_vit_suite", "transformers.modeling_layers"),
        ("transformers.modeling_layers", "hf_vit_suite"),
        ("hf_vit_suite.models.modeling_vit",),
        ("hf_vit_suite.models.modeling_dino", "transformers.models.vit.modeling_vit"),
        ("transformers.models.auto.image_processing_auto", "hf_vit_suite"),
    ],
    ids=" then ".join,
)
def test_auto_classes_know_the_families_in_any_import_order(modules: tuple[str, ...], run_python):
    run_python("-W", "error::UserWarning", "-c", IMPORT_ORDER, *modules)


AFTER_A_FAILED_IMPORT = """
import sys
import hf_vit_suite
name = "transformers.models.vit.configuration_vit"
sys.modules[name] = None  # importing it raises, after the Auto classes were loaded
try:
    import transformers.models.vit.modeling_vit
except ImportError:
    pass
else:
    raise AssertionError("the import must fail here")
del sys.modules[name]
import transformers
assert "transformers.models.auto.modeling_auto" in sys.modules
transformers.AutoModel.from_config(transformers.AutoConfig.for_model("suite_vit", num_hidden_layers=1))
"""

IN_THREADS = """
import importlib, inspect, threading
import hf_vit_suite
names = ["transformers.models.vit.modeling_vit", "hf_vit_suite.models.modeling_clip", "transformers.trainer"]
threads = [threading.Thread(target=importlib.import_module, args=(name,)) for name in names]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import transformers
transformers.AutoModel.from_config(transformers.AutoConfig.for_model("suite_vit", num_hidden_layers=1))
assert "class ViTModel" in inspect.getsource(transformers.models.vit.modeling_vit)
assert "class AutoModel" in inspect.getsource(transformers.models.auto.modeling_auto)
"""


@pytest.mark.parametrize("script", [AFTER_A_FAILED_IMPORT, IN_THREADS], ids=["after a failed import", "in threads"])
def test_registration_survives_unusual_imports(script: str, run_python):
    run_python("-c", script)


def test_unknown_export_is_an_attribute_error():
    with pytest.raises(AttributeError, match="SuiteNothing"):
        _ = hf_vit_suite.SuiteNothing
    assert set(hf_vit_suite.__all__) <= set(dir(hf_vit_suite))


def test_config_and_image_processor_open_through_auto_classes(classifier_folder: Path):
    assert type(AutoConfig.from_pretrained(classifier_folder)) is SuiteViTConfig
    assert type(AutoImageProcessor.from_pretrained(classifier_folder)) is ViTImageProcessor
    assert IMAGE_PROCESSOR_MAPPING[SuiteViTConfig]["torchvision"] is ViTImageProcessor


@torch.no_grad()
def test_pipelines_give_what_the_model_gives(classifier_folder: Path):
    image = Image.linear_gradient("L").convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(classifier_folder)(image, return_tensors="pt").pixel_values
    model = SuiteViTForImageClassification.from_pretrained(classifier_folder).eval()
    probabilities = model(pixels).logits.softmax(dim=-1)[0].tolist()
    found = pipeline("image-classification", model=str(classifier_folder))(image)
    assert {entry["label"]: entry["score"] for entry in found} == pytest.approx(
        dict(zip(("cat", "dog", "owl"), probabilities, strict=True)), rel=1e-5
    )
    features = pipeline("image-feature-extraction", model=str(classifier_folder))(image, return_tensors=True)
    torch.testing.assert_close(features, model.vit(pixels).last_hidden_state)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.name)
def test_model_files_import_only_torch_transformers_and_siblings(path: Path):
    text = path.read_text()
    siblings = {sibling.stem for sibling in MODELS.glob("*.py")}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED
        elif isinstance(node, ast.ImportFrom) and node.level:
            # transformers finds a checkpoint's files by `from .sibling import`, and by no other form.
            assert node.level == 1
            assert node.module in siblings
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in ALLOWED
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
    assert sum(line.lstrip().startswith("from .") for line in text.splitlines()) == len(imports)
