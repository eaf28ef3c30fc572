"""What lies beside converted weights: labels, image processors and tokenizers, against the references' own."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hf_vit_suite.conversion import convert
from hf_vit_suite.conversion.surroundings import clip_tokenizer
from PIL import Image
from published import PIXELS, clip_model, vision_transformer
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.data import create_transform
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_vit_suite.models.configuration_clip import SuiteCLIPConfig

# Square, as timm and transformers round the place of an uneven crop otherwise.
PHOTO = Image.fromarray(load_sample_image("china.jpg")).crop((0, 0, 400, 400))
TEXTS = ["a photo of a cat.", "Ärger  über naïve façades!", "don't 12,345 ✨ stop", "the THE tHe", "snow-covered 雪"]


def test_the_papers_tokenizer_makes_the_papers_numbers():
    tokenizer = clip_tokenizer(SuiteCLIPConfig(), None)
    reference = open_clip.get_tokenizer("ViT-B-32")
    found = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    expected = reference(TEXTS)
    assert torch.equal(found.masked_fill(found == tokenizer.pad_token_id, 49407), filled(expected))


def filled(numbers: torch.Tensor) -> torch.Tensor:
    """open_clip's numbers, filled up with the end of text in place of zeros."""
    ends = (numbers == 49407).int().argmax(dim=1, keepdim=True)
    return numbers.masked_fill(torch.arange(numbers.shape[1]) > ends, 49407)


@pytest.mark.parametrize(
    ("name", "share", "mean"),
    [("deit_tiny", 0.875, [0.485, 0.456, 0.406]), ("vit_tiny_augreg", 0.9, [0.5, 0.5, 0.5])],
)
def test_pictures_are_prepared_as_timm_does(name: str, share: float, mean: list[float], tmp_path: Path):
    model = vision_transformer(img_size=224, depth=1)
    if name.startswith("deit"):
        torch.save({"model": model.state_dict()}, tmp_path / f"{name}.pth")
    else:
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    (source,) = tmp_path.iterdir()
    convert(source, tmp_path / "ours")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert list(processor.image_mean) == mean
    std = [0.5] * 3 if mean[0] == 0.5 else [0.229, 0.224, 0.225]
    transform = create_transform((3, 224, 224), crop_pct=share, interpolation="bicubic", mean=mean, std=std)
    found, expected = processor(PHOTO, return_tensors="pt").pixel_values[0], transform(PHOTO)
    # PIL's and torchvision's bicubic round to 8 bits in another order.
    assert (found - expected).abs().mean() * min(std) * 255 < 0.5


def test_a_classifier_of_imagenet_gets_its_labels_and_works_in_a_pipeline(tmp_path: Path):
    save_file(vision_transformer(num_classes=1000).state_dict(), tmp_path / "vit.safetensors")
    model = convert(tmp_path / "vit.safetensors", tmp_path / "ours")
    assert [model.config.id2label[number] for number in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]
    classify = pipeline("image-classification", model=str(tmp_path / "ours"))
    pixels = classify.image_processor(PHOTO, return_tensors="pt").pixel_values
    best = model.config.id2label[model(pixels).logits.argmax().item()]
    assert classify(PHOTO)[0]["label"] == best


def test_labels_of_the_sources_config_are_kept(tmp_path: Path):
    labels = {0: "cat", 1: "dog", 2: "toast"}
    theirs = ViTForImageClassification(
        ViTConfig(
            hidden_size=48,
            num_hidden_layers=1,
            num_attention_heads=3,
            intermediate_size=32,
            image_size=32,
            id2label=labels,
            label2id={name: number for number, name in labels.items()},
        )
    )
    theirs.save_pretrained(tmp_path / "theirs")
    ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(
        tmp_path / "theirs"
    )
    model = convert(tmp_path / "theirs", tmp_path / "ours")
    assert model.config.id2label == labels
    assert AutoImageProcessor.from_pretrained(tmp_path / "ours").image_mean == (0.1, 0.2, 0.3)
    assert torch.allclose(model(PIXELS).logits, theirs.eval()(PIXELS).logits, atol=1e-5)


def test_a_clip_with_the_papers_vocabulary_tells_pictures_apart_in_a_pipeline(tmp_path: Path):
    model = clip_model(quick_gelu=True).eval()
    texts = torch.randn(49408, 64) * 0.02
    model.token_embedding = torch.nn.Embedding.from_pretrained(texts)
    model.positional_embedding = torch.nn.Parameter(torch.randn(77, 64) * 0.02)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "c.safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "ours", config_overrides={"text_config": {"hidden_act": "gelu"}})
    processor = AutoProcessor.from_pretrained(tmp_path / "ours")
    assert processor.tokenizer("a cat").input_ids == [49406, 320, 2368, 49407]
    tell = pipeline("zero-shot-image-classification", model=str(tmp_path / "ours"))
    found = tell(PHOTO, candidate_labels=["a temple", "a cat"])
    assert {entry["label"] for entry in found} == {"a temple", "a cat"}
    assert np.isclose(sum(entry["score"] for entry in found), 1)


def test_timms_own_settings_prepare_the_pictures_and_name_the_labels(tmp_path: Path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(vision_transformer().state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.5, "interpolation": "bilinear"}
    settings = {"architecture": "vit", "label_names": ["ant", "bee", "cat", "dog", "elk"], "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(settings))
    assert convert(folder, tmp_path / "ours").config.id2label[4] == "elk"
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert (processor.image_mean, processor.image_std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert processor.size["shortest_edge"] == 64
    assert processor.resample == 2
