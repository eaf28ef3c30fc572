"""Features of the suite's and of transformers' own models."""

import pytest
import torch
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pillow
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    ConvNextImageProcessor,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from hf_vit_suite import SuiteMAEConfig, SuiteMAEForPreTraining, SuiteMAEModel, SuiteViTConfig, SuiteViTModel
from hf_vit_suite.evaluation.features import extract_features, open_extractor

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
IMAGE = {"image_size": 32, "patch_size": 8}
MAE = {
    **SIZES, **IMAGE, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
REGISTERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_register_tokens": 3, **IMAGE}
VISION = {**SIZES, **IMAGE}
CASES = {
    "suite_vit": (lambda: SuiteViTModel(SuiteViTConfig(**SIZES, **IMAGE, num_register_tokens=2)), 3),
    "suite_mae": (lambda: SuiteMAEModel(SuiteMAEConfig(**MAE)), 1),
    "vit": (lambda: ViTModel(ViTConfig(**SIZES, **IMAGE)), 1),
    "dinov2_with_registers": (lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**REGISTERS)), 4),
}


@pytest.fixture
def images() -> Dataset:
    """Five pictures, each of its own colour, with labels."""
    pictures = [Pillow.new("RGB", (40, 36), (50 * index, 255 - 50 * index, 90)) for index in range(5)]
    rows = Dataset.from_dict({"image": pictures, "label": [0, 1, 0, 1, 1]})
    return rows.cast(Features({"image": Image(decode=False), "label": Value("int64")}))


def save(model: PreTrainedModel, folder) -> str:
    """A folder that open_extractor opens."""
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_class_token_and_mean_of_patches_are_the_models(name: str, tmp_path):
    build, prefix = CASES[name]
    folder = save(build(), tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    outputs = AutoModel.from_pretrained(folder).eval()(pixels)
    tokens = outputs.last_hidden_state
    for pooling, expected in (
        ("default", outputs.pooler_output),
        ("cls", tokens[:, 0]),
        ("mean", tokens[:, prefix:].mean(dim=1)),
    ):
        torch.testing.assert_close(open_extractor(folder, pooling)(pixels), expected)


@torch.no_grad()
def test_pooler_that_a_checkpoint_has_no_weights_for_is_not_used(tmp_path):
    model = ViTForImageClassification(ViTConfig(**SIZES, **IMAGE)).eval()
    folder = save(model, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    expected = model.vit(pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(open_extractor(folder)(pixels), expected)


@torch.no_grad()
def test_transformers_autoencoder_masks_nothing(tmp_path):
    model = ViTMAEModel(ViTMAEConfig(**MAE)).eval()
    folder = save(model, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    encoder = open_extractor(folder, "mean")
    torch.testing.assert_close(encoder(pixels), encoder(pixels))
    model.config.mask_ratio = 0.0
    torch.testing.assert_close(encoder(pixels), model(pixels).last_hidden_state[:, 1:].mean(dim=1))


@torch.no_grad()
def test_pretrained_autoencoder_gives_its_encoders_features(tmp_path):
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**MAE)).eval()
    pixels = torch.randn(2, 3, 32, 32)
    found = open_extractor(save(model, tmp_path))(pixels)
    torch.testing.assert_close(found, model.vit(pixels).pooler_output)


@torch.no_grad()
def test_convolutional_and_windowed_networks_give_the_mean_of_positions(tmp_path):
    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    swin = SwinModel(
        SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    )
    pixels = torch.randn(2, 3, 32, 32)
    for name, model in (("resnet", resnet), ("swin", swin)):
        folder = save(model.eval(), tmp_path / name)
        outputs = model(pixels)
        torch.testing.assert_close(open_extractor(folder)(pixels), outputs.pooler_output.flatten(1))
        states = outputs.last_hidden_state
        mean = states.mean(dim=(2, 3)) if states.ndim == 4 else states.mean(dim=1)
        torch.testing.assert_close(open_extractor(folder, "mean")(pixels), mean)
        with pytest.raises(ValueError, match=f"a {name} has no class token"):
            open_extractor(folder, "cls")(pixels)


@torch.no_grad()
def test_clip_gives_projected_features_by_default_and_its_vision_tokens_else(tmp_path):
    text = {**SIZES, "vocab_size": 99, "max_position_embeddings": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)).eval()
    folder = save(model, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(open_extractor(folder)(pixels), model.get_image_features(pixels).pooler_output)
    assert open_extractor(folder)(pixels).shape == (2, 24)
    tokens = model.vision_model(pixels).last_hidden_state
    torch.testing.assert_close(open_extractor(folder, "mean")(pixels), tokens[:, 1:].mean(dim=1))


@torch.no_grad()
def test_siglip_gives_its_attention_pooled_features_and_has_no_class_token(tmp_path):
    text = {**SIZES, "vocab_size": 99, "max_position_embeddings": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).eval()
    folder = save(model, tmp_path)
    pixels = torch.randn(2, 3, 32, 32)
    outputs = model.vision_model(pixels)
    torch.testing.assert_close(open_extractor(folder)(pixels), outputs.pooler_output)
    torch.testing.assert_close(open_extractor(folder, "mean")(pixels), outputs.last_hidden_state.mean(dim=1))
    with pytest.raises(ValueError, match="has no class token"):
        open_extractor(folder, "cls")(pixels)


def test_features_of_a_split_depend_on_no_batch_and_keep_the_labels(images: Dataset, tmp_path):
    encoder = open_extractor(save(SuiteViTModel(SuiteViTConfig(**SIZES, **IMAGE)), tmp_path))
    whole = extract_features(encoder, images, batch_size=5)
    pieces = extract_features(encoder, images, batch_size=2)
    torch.testing.assert_close(pieces.values, whole.values)
    assert whole.labels.tolist() == [0, 1, 0, 1, 1]
    rough = extract_features(encoder, images, bf16=True)
    assert rough.values.dtype == torch.float32
    assert not torch.equal(rough.values, whole.values)
    torch.testing.assert_close(rough.values, whole.values, rtol=0, atol=0.1)


def test_images_are_seen_as_the_processor_gives_them(images: Dataset, tmp_path):
    model = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")).eval()
    model.save_pretrained(tmp_path)
    processor = ConvNextImageProcessor(size={"shortest_edge": 64})
    processor.save_pretrained(tmp_path)
    found = extract_features(open_extractor(str(tmp_path)), images)
    pictures = images.cast_column("image", Image())["image"][:]
    with torch.no_grad():
        expected = model(processor(pictures, return_tensors="pt").pixel_values).pooler_output.flatten(1)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_random_weights_are_others_and_follow_the_seed(tmp_path):
    folder = save(SuiteViTModel(SuiteViTConfig(**SIZES, **IMAGE)), tmp_path)
    pixels = torch.randn(1, 3, 32, 32)
    state = torch.get_rng_state()
    open_extractor(folder, random_weights=True)
    assert torch.equal(torch.get_rng_state(), state)  # whatever the caller draws next is as it was
    trained, first, again, other = (
        open_extractor(folder, random_weights=is_random, seed=seed)(pixels)
        for is_random, seed in ((False, 5), (True, 5), (True, 5), (True, 6))
    )
    torch.testing.assert_close(again, first)
    for different in (trained, other):
        assert not torch.allclose(first, different, rtol=0.1, atol=0.1)


def test_unknown_pooling_is_refused(tmp_path):
    with pytest.raises(ValueError, match="pooling must be one of default, cls, mean, got 'max'"):
        open_extractor(str(tmp_path), "max")
