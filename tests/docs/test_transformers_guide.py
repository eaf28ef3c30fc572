"""docs/transformers.md says what is so: its blocks run in order, and what they leave is looked at."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, LlavaForConditionalGeneration

import hf_vit_suite

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> dict:
    """What the blocks of the guide define, run from top to bottom in a folder of their own."""
    names: dict = {}
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL):
            exec(compile(block, str(GUIDE), "exec"), names)
    return names | {"folder": folder}


pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that the guide shows


def learns(module: torch.nn.Module) -> bool:
    """Whether a backward pass reached it."""
    return module.weight.grad is not None and bool(module.weight.grad.abs().sum() > 0)


def test_call_drops_the_remainder_and_returns_the_chosen_layer(guide: dict):
    assert guide["hidden"].shape == (2, 1 + 5 * 4, 32)
    assert [state is None for state in guide["outputs"].hidden_states] == [True] * 4 + [False]


def test_plain_trainer_reports_the_metric_and_saves(guide: dict):
    assert 0 <= guide["metrics"]["eval_accuracy"] <= 1
    before, after = (AutoModel.from_pretrained(guide["folder"] / name) for name in ("vit", "trained"))
    assert not torch.equal(before.norm.weight, after.norm.weight)


def test_adapters_learn_and_merge(guide: dict):
    names = {name for name, weight in guide["adapted"].named_parameters() if weight.grad is not None}
    assert any("qkv.lora_B" in name for name in names)
    assert any("projection.lora_B" in name for name in names)
    images = guide["images"]
    torch.testing.assert_close(guide["merged"].eval()(images).logits, guide["reopened"].eval()(images).logits)
    assert type(guide["merged"]).__name__ == "SuiteViTForImageClassification"


def test_quantised_model_has_integers_and_close_outputs(guide: dict):
    quantised = guide["quantised"].eval()
    weight = quantised.vit.encoder.blocks[0].mlp.fc1.weight
    assert weight.qdata.dtype == torch.int8
    plain = hf_vit_suite.SuiteViTForImageClassification.from_pretrained(guide["folder"] / "vit").eval()
    difference = (quantised(guide["images"]).logits - plain(guide["images"]).logits).abs().max()
    assert 0 < difference < 0.05


def test_pipelines_return_labels_and_features(guide: dict):
    assert {entry["label"] for entry in guide["labels"]} == {"cat", "dog", "owl"}
    assert guide["features"].shape == (1, 17, 32)


def test_exported_program_takes_another_batch_size(guide: dict):
    assert guide["logits"].shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("segmented", (2, 5, 64, 64)), ("depth", (2, 64, 64)), ("masks", (2, 4, 64, 64)), ("boxes", (2, 3, 4)),
    ],
)  # fmt: skip
def test_dense_predictors_return_maps_that_train_the_backbone(name: str, shape: tuple[int, ...], guide: dict):
    outputs = guide[name]
    assert outputs.shape[:2] == shape[:2]
    assert outputs.ndim == len(shape)
    model = guide[{"segmented": "upernet", "depth": "dpt", "masks": "mask2former", "boxes": "detr"}[name]]
    outputs.sum().backward()
    (projection,) = [part for part in model.modules() if type(part).__name__ == "PatchProjection"]
    assert learns(projection)


def test_composite_models_train_the_suites_parts_and_are_saved(guide: dict):
    assert type(guide["captioner"].encoder).__name__ == "SuiteViTModel"
    assert learns(guide["captioner"].encoder.embeddings.patch_embeddings.projection)
    assert guide["words"].shape[0] == 2
    assert type(guide["dual"].text_model).__name__ == "SuiteCLIPTextModel"
    assert learns(guide["dual"].text_model.norm)
    assert learns(guide["dual"].vision_model.embeddings.patch_embeddings.projection)
    tower = guide["llava"].model.vision_tower
    assert type(tower).__name__ == "SuiteCLIPVisionModel"
    assert learns(tower.embeddings.patch_embeddings.projection)
    reopened = LlavaForConditionalGeneration.from_pretrained(guide["folder"] / "llava").model.vision_tower
    assert torch.equal(reopened.norm.weight, tower.norm.weight)
