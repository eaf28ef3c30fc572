"""The blocks of docs/transformers.md run in order; the tests check the values that they leave."""

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, CLIPProcessor, LlavaForConditionalGeneration

from hf_vit_suite import SuiteViTForImageClassification

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "transformers.md"


@pytest.fixture(scope="module")
def guide(tmp_path_factory) -> dict:
    """What the blocks of the guide define, run from top to bottom in a folder of their own."""
    names: dict = {}
    folder = tmp_path_factory.mktemp("guide")
    torch.manual_seed(0)
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
    learned = {name for name, weight in guide["adapted"].named_parameters() if weight.requires_grad and weight.any()}
    for part in ("patch_embeddings.projection", *(f"blocks.{layer}.attention.qkv" for layer in range(4))):
        assert any(f"{part}.lora_B" in name for name in learned), part  # it starts at zero
    plain, merged, adapted = (
        model.eval()(guide["images"]).logits
        for model in (
            SuiteViTForImageClassification.from_pretrained(guide["folder"] / "vit"),
            SuiteViTForImageClassification.from_pretrained(guide["folder"] / "merged"),
            guide["adapted"],
        )
    )
    torch.testing.assert_close(merged, adapted)
    assert (merged - plain).abs().max() > 0.01
    assert type(guide["merged"]) is SuiteViTForImageClassification


def test_quantised_model_has_integers_and_close_outputs(guide: dict):
    quantised = guide["quantised"].eval()
    weight = quantised.vit.encoder.blocks[0].mlp.fc1.weight
    assert weight.qdata.dtype == torch.int8
    plain = SuiteViTForImageClassification.from_pretrained(guide["folder"] / "vit").eval()
    difference = (quantised(guide["images"]).logits - plain(guide["images"]).logits).abs().max()
    assert 0 < difference < 0.05
    reopened = SuiteViTForImageClassification.from_pretrained(guide["folder"] / "int8").eval()
    torch.testing.assert_close(reopened(guide["images"]).logits, quantised(guide["images"]).logits)


def test_pipelines_return_labels_and_features(guide: dict):
    assert {entry["label"] for entry in guide["labels"]} == {"cat", "dog", "owl"}
    assert guide["features"].shape == (1, 17, 32)
    scores = {match["label"]: match["score"] for match in guide["matches"]}
    texts = [f"This is a photo of {label}." for label in scores]  # the pipeline's template
    inputs = CLIPProcessor.from_pretrained(guide["folder"] / "clip")(
        text=texts, images=guide["image"], return_tensors="pt", padding=True
    )
    expected = guide["clip"].eval()(**inputs).logits_per_image.softmax(dim=-1)[0]
    torch.testing.assert_close(torch.tensor(list(scores.values())), expected)


def test_exported_program_takes_another_batch_size(guide: dict):
    assert guide["logits"].shape == (5, 3)
    more = torch.randn(7, 3, 32, 32)
    found, expected = guide["program"].module()(more)[0], guide["model"].eval()(more).logits
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("segmented", (2, 5, 64, 64)), ("depth", (2, 64, 64)), ("masks", (2, 4, 8, 8)), ("boxes", (2, 3, 4)),
    ],
)  # fmt: skip
def test_dense_predictors_return_maps_that_train_the_backbone(name: str, shape: tuple[int, ...], guide: dict):
    outputs = guide[name]
    assert outputs.shape == shape
    model = guide[{"segmented": "upernet", "depth": "dpt", "masks": "mask2former", "boxes": "detr"}[name]]
    model.zero_grad()
    outputs.sum().backward()
    (projection,) = [part for part in model.modules() if type(part).__name__ == "PatchProjection"]
    assert learns(projection)


def test_backbones_have_the_loaded_weights(guide: dict):
    for backbone in (guide["upernet"].backbone, guide["detr"].model.backbone.model):
        assert torch.equal(backbone.vit.norm.weight, guide["encoder"].norm.weight)
        found, expected = (
            model.embeddings.patch_embeddings.projection.weight for model in (backbone.vit, guide["encoder"])
        )
        assert torch.equal(found, expected)


def test_llava_reads_the_tower(guide: dict):
    llava, images = guide["llava"].eval(), guide["images"]
    hidden = guide["clip"].vision_model.eval()(images, output_hidden_states=True).hidden_states[-2]
    expected = llava.model.multi_modal_projector(hidden[:, 1:])
    for found, wanted in zip(llava.get_image_features(pixel_values=images).pooler_output, expected, strict=True):
        torch.testing.assert_close(found, wanted)


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
