"""transformers' own common tests on every class of every family."""

import copy
import unittest

import torch
import transformers
from common_tests import BackboneTesterMixin, ConfigTester, ModelTesterMixin
from families import FAMILIES, Family
from transformers import PreTrainedConfig, PreTrainedModel

import hf_vit_suite

# No common test takes a deeper one.
DEPTH = 2


class ModelTester:
    """What the common tests ask of a model class: a tiny config, inputs and sizes."""

    def __init__(self, family: Family, model_class: type[PreTrainedModel]):
        self.family, self.model_class = family, model_class
        config, inputs = self.prepare_config_and_inputs_for_common()
        part = getattr(config, "text_config", config)
        self.batch_size = len(next(iter(inputs.values())))
        self.hidden_size, self.num_hidden_layers = part.hidden_size, part.num_hidden_layers
        self.num_attention_heads = part.num_attention_heads
        self.is_training = hasattr(model_class(config)(**inputs), "loss")
        if "input_ids" in inputs:
            self.seq_length = inputs["input_ids"].shape[1]
        else:
            rows, columns = config.grid_height_width
            self.image_size, self.patch_size = config.image_size, config.patch_size
            self.num_masks = self.mask_length = rows * columns
            seen = config.num_visible(rows * columns) if "noise" in inputs else rows * columns
            self.seq_length = config.num_prefix_tokens + seen

    def get_config(self) -> PreTrainedConfig:
        """The family's tiny config."""
        config = self.family.config()
        for part in [getattr(config, name) for name in config.sub_configs] or [config]:
            part.num_hidden_layers = DEPTH
        return config

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict]:
        """The config, and forward's arguments for the class."""
        config = self.get_config()
        with torch.device("meta"):
            model = self.model_class(config)
        return config, self.family.inputs(model)


class SuiteTests(ModelTesterMixin):
    """The common tests of one class."""

    family: Family

    def setUp(self):
        (model_class,) = self.all_model_classes
        self.config_class = model_class.config_class
        self.model_tester = ModelTester(self.family, model_class)
        _, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        self.additional_model_inputs = [
            name
            for name, value in inputs.items()
            if isinstance(value, torch.Tensor) and name not in (model_class.main_input_name, "attention_mask")
        ]
        self.config_tester = ConfigTester(self, config_class=self.config_class, has_text_modality=self.has_texts)

    @property
    def has_texts(self) -> bool:
        """Whether the class is a text tower."""
        return self.all_model_classes[0].input_modalities == ("text",)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = copy.deepcopy(inputs_dict)
        if return_labels and model_class.__name__.endswith("ForImageClassification"):
            inputs["labels"] = torch.zeros(self.model_tester.batch_size, dtype=torch.long)
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """As transformers tests its ViT, whose input embeddings are no table of tokens."""
        if self.has_texts:
            return super().test_model_get_set_embeddings()
        model = self.all_model_classes[0](self.model_tester.get_config())
        if model.input_modalities == ("image",):
            assert isinstance(model.get_input_embeddings(), torch.nn.Module)
        assert model.get_output_embeddings() is None


def classes_of(family: Family) -> list[type[PreTrainedModel]]:
    """Those that its Auto classes open, and the others."""
    config_class = type(family.config())
    opened = [getattr(transformers, auto_class)._model_mapping[config_class] for auto_class in family.auto_classes]
    return list(dict.fromkeys([*opened, *(getattr(hf_vit_suite, name) for name in family.other_classes)]))


def make_tests(family: Family, model_class: type[PreTrainedModel]) -> type[unittest.TestCase]:
    """A test case of a family's class."""
    mixins = (BackboneTesterMixin,) if model_class.__name__.endswith("Backbone") else ()
    name = f"{family.name.replace('-', '_')}_{model_class.__name__}"
    has_texts = "text" in model_class.input_modalities
    fields = {"family": family, "all_model_classes": (model_class,), "test_resize_embeddings": has_texts}
    fields["test_all_params_have_gradient"] = not family.unused
    return type(name, (*mixins, SuiteTests, unittest.TestCase), fields)


CASES = [make_tests(family, model_class) for family in FAMILIES for model_class in classes_of(family)]
globals().update({case.__name__: case for case in CASES})
