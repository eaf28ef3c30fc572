"""transformers' common tests, imported from where `download.py` has put them: the folder `TRANSFORMERS_TESTS`."""

import importlib
import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from download import tests_of_transformers

PACKAGE = "transformers_tests"
# The sdist leaves out the folders below `tests`. Of what the common tests import from there generation is not ours,
# exports have tests of our own (models/test_export.py), and the configs' common fields are these, none at its default.
COMMON_FIELDS = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SuiteModel"],
    "id2label": {0: "cat"},
    "label2id": {"cat": 0},
    "problem_type": "regression",
}
LEFT_OUT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": COMMON_FIELDS},
}


def add_package(folder: Path) -> None:
    """Makes the folder importable as the package, with stand-ins for what it leaves out."""
    spec = spec_from_file_location(PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[PACKAGE] = module_from_spec(spec)
    for name, contents in LEFT_OUT.items():
        for part in (name.partition(".")[0], name):
            module = sys.modules.setdefault(f"{PACKAGE}.{part}", ModuleType(f"{PACKAGE}.{part}"))
        vars(module).update(contents)


add_package(tests_of_transformers(Path(os.environ["TRANSFORMERS_TESTS"])))
BackboneTesterMixin = importlib.import_module(f"{PACKAGE}.test_backbone_common").BackboneTesterMixin
ConfigTester = importlib.import_module(f"{PACKAGE}.test_configuration_common").ConfigTester
ModelTesterMixin = importlib.import_module(f"{PACKAGE}.test_modeling_common").ModelTesterMixin
