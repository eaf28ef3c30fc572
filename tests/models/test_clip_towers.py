"""CLIP's towers by themselves: opened from a folder of both, saved, masked, and with more tokens."""

import json
import logging
from pathlib import Path

import pytest
import torch
from families import TINY_CLIP_TEXT, TINY_CLIP_VISION
from references import assert_equals_reference, from_transformers_clip, randomise
from transformers import AutoModel, CLIPConfig, CLIPModel

from hf_vit_suite import (
    SuiteCLIPConfig,
    SuiteCLIPModel,
    SuiteCLIPTextConfig,
    SuiteCLIPTextModel,
    SuiteCLIPTextModelWithProjection,
    SuiteCLIPVisionBackbone,
    SuiteCLIPVisionModel,
    SuiteCLIPVisionModelWithProjection,
)

TEXT_CLASSES = (SuiteCLIPTextModel, SuiteCLIPTextModelWithProjection)
VISION_CLASSES = (SuiteCLIPVisionModel, SuiteCLIPVisionModelWithProjection, SuiteCLIPVisionBackbone)


def tiny_clip() -> SuiteCLIPModel:
    """A tiny CLIP with random weights."""
    return randomise(SuiteCLIPModel(SuiteCLIPConfig(vision_config=TINY_CLIP_VISION, text_config=TINY_CLIP_TEXT)))


@pytest.mark.parametrize("tower_class", TEXT_CLASSES + VISION_CLASSES)
def test_each_class_of_a_tower_opens_from_every_folder_that_holds_it(tower_class: type, tmp_path: Path):
    clip = tiny_clip()
    name = "text_model" if tower_class in TEXT_CLASSES else "vision_model"
    tower = getattr(clip, name)
    clip.save_pretrained(tmp_path / "both")
    tower.save_pretrained(tmp_path / "tower")
    (TEXT_CLASSES if tower_class in TEXT_CLASSES else VISION_CLASSES)[1].from_pretrained(
        tmp_path / "both"
    ).save_pretrained(tmp_path / "projected")
    for folder in ("both", "tower", "projected"):
        model, loading = tower_class.from_pretrained(tmp_path / folder, output_loading_info=True)
        is_new = {"visual_projection.weight", "text_projection.weight"} if folder == "tower" else set()
        assert set(loading["missing_keys"]) <= is_new
        assert not loading["unexpected_keys"]
        found = getattr(model, name, model).state_dict()
        assert all(torch.equal(found[key], weight) for key, weight in tower.state_dict().items())


@pytest.mark.parametrize("name", ["text_model", "vision_model"])
@torch.no_grad()
def test_tower_saved_out_of_both_opens_through_the_auto_class(name: str, tmp_path: Path, run_python):
    tower = getattr(tiny_clip(), name)
    tower.save_pretrained(tmp_path / "tower")
    mapped = json.loads((tmp_path / "tower" / "config.json").read_text())["auto_map"]["AutoModel"]
    assert mapped == f"clip_towers.{type(tower).__name__}"
    reopened = AutoModel.from_pretrained(tmp_path / "tower").eval()
    assert type(reopened) is type(tower)
    if name == "vision_model":
        inputs = {"pixel_values": torch.randn(2, 3, 32, 32)}
    else:
        inputs = {"input_ids": torch.tensor([[58, 3, 59], [58, 59, 59]])}
    assert_equals_reference(reopened(**inputs).pooler_output, tower(**inputs).pooler_output)
    script = "import sys, transformers; sys.modules['hf_vit_suite'] = None; print(type(transformers.AutoModel."
    script += f"from_pretrained({str(tmp_path / 'tower')!r}, trust_remote_code=True)).__name__)"
    assert type(tower).__name__ in run_python("-c", script, PYTHONPATH="").stdout


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@torch.no_grad()
def test_masks_and_positions_of_texts_equal_transformers(backend: str):
    shared = {"vision_config": TINY_CLIP_VISION, "text_config": TINY_CLIP_TEXT, "projection_dim": 16}
    reference = randomise(CLIPModel._from_config(CLIPConfig(**shared), attn_implementation="eager"), scale=0.1)
    ours = SuiteCLIPModel._from_config(SuiteCLIPConfig(**shared), attn_implementation=backend).eval()
    ours.load_state_dict(from_transformers_clip(reference.state_dict()))
    input_ids = torch.tensor([[58, 3, 5, 7, 59], [1, 1, 58, 9, 59]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    positions = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    call = {"input_ids": input_ids, "attention_mask": mask, "position_ids": positions}
    found, expected = ours.get_text_features(**call), reference.get_text_features(**call)
    assert_equals_reference(found.pooler_output, expected.pooler_output)
    seen = mask.bool()
    assert_equals_reference(found.last_hidden_state[seen], expected.last_hidden_state[seen])
    pixels = torch.randn(2, 3, 32, 32)
    found, expected = (model(pixel_values=pixels, **call, return_loss=True) for model in (ours, reference))
    assert_equals_reference(found.logits_per_text, expected.logits_per_text)
    cached = ours(pixel_values=pixels, **call, return_loss=True, cached_batch_size=1)
    assert_equals_reference(cached.logits_per_text, expected.logits_per_text)
    unmasked = ours(pixel_values=pixels, input_ids=input_ids).logits_per_text
    assert (unmasked - expected.logits_per_text)[1].abs().max() > 1e-3


@torch.no_grad()
def test_text_tower_with_more_tokens_is_saved_and_opened(tmp_path: Path):
    clip = tiny_clip()
    input_ids = torch.tensor([[58, 3, 59, 59], [58, 61, 7, 59]])
    expected = clip.get_text_features(input_ids[:1]).pooler_output
    clip.text_model.resize_token_embeddings(64)
    clip.save_pretrained(tmp_path / "both")
    clip.text_model.save_pretrained(tmp_path / "tower")
    reopened = SuiteCLIPModel.from_pretrained(tmp_path / "both").eval()
    assert (reopened.config.text_config.vocab_size, reopened.config.text_config.eos_token_id) == (64, 59)
    assert_equals_reference(reopened.get_text_features(input_ids[:1]).pooler_output, expected)
    assert reopened.get_text_features(input_ids).pooler_output.isfinite().all()
    assert AutoModel.from_pretrained(tmp_path / "tower").config.vocab_size == 64


def test_special_tokens_follow_the_vocabulary_and_then_stay(tmp_path: Path, caplog):
    config = SuiteCLIPTextConfig(vocab_size=1000)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (998, 999, 999)
    config.vocab_size = 1010
    config.save_pretrained(tmp_path)
    assert SuiteCLIPTextConfig.from_pretrained(tmp_path).eos_token_id == 999
    assert SuiteCLIPTextConfig().eos_token_id == 49407
    with caplog.at_level(logging.WARNING):
        SuiteCLIPTextConfig(vocab_size=123, eos_token_id=123)
    assert "eos_token_id 123 is not in the vocabulary of 123 tokens" in caplog.text
