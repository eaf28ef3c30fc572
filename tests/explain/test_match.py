"""What a match rests on equals the paper's formula on transformers' own CLIP."""

import pytest
import torch
from references import assert_equals_reference, from_transformers_clip, randomise
from transformers import CLIPConfig, CLIPModel

from hf_vit_suite import SuiteCLIPConfig, SuiteCLIPModel
from hf_vit_suite.explain import match_relevance

FIELDS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
SHARED = {
    "vision_config": {**FIELDS, "image_size": 32, "patch_size": 8},
    "text_config": {
        **FIELDS,
        "vocab_size": 60,
        "max_position_embeddings": 12,
        "bos_token_id": 58,
        "eos_token_id": 59,
        "pad_token_id": 59,
    },
    "projection_dim": 16,
}


@pytest.fixture
def models() -> tuple[SuiteCLIPModel, CLIPModel]:
    """Ours and transformers' with the same random weights."""
    reference = randomise(CLIPModel._from_config(CLIPConfig(**SHARED), attn_implementation="eager"), scale=0.3)
    ours = SuiteCLIPModel(SuiteCLIPConfig(**SHARED)).eval()
    ours.load_state_dict(from_transformers_clip(reference.state_dict()))
    return ours, reference


def test_relevance_is_the_papers(models):
    ours, reference = models
    pixel_values = torch.randn(2, 3, 32, 32)
    input_ids = torch.tensor([[58, 3, 4, 59], [58, 7, 59, 59]])
    found, similarities = match_relevance(ours, pixel_values, input_ids)
    for number in range(2):
        pair = {"input_ids": input_ids[number : number + 1], "pixel_values": pixel_values[number : number + 1]}
        outputs = reference(**pair, output_attentions=True)
        cosine = torch.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
        attentions = outputs.vision_model_output.attentions
        relevance = torch.eye(17)
        for attention in attentions:
            (gradient,) = torch.autograd.grad(cosine, attention, retain_graph=True)
            relevance = relevance + torch.relu(gradient * attention)[0].mean(dim=0) @ relevance
        assert_equals_reference(found[number], relevance[0, 1:].detach().view(4, 4))
        assert_equals_reference(similarities[number], cosine[0].detach())
    assert (found >= 0).all()


def test_relevance_needs_no_gradient_of_the_weights_and_serves_transformers_own(models):
    ours, reference = models
    pixel_values, input_ids = torch.randn(1, 3, 32, 32), torch.tensor([[58, 3, 59]])
    expected, _ = match_relevance(ours, pixel_values, input_ids)
    with torch.no_grad():
        found, _ = match_relevance(ours.requires_grad_(False), pixel_values, input_ids)
    assert_equals_reference(found, expected)
    assert_equals_reference(match_relevance(reference, pixel_values, input_ids)[0], expected)


def test_other_texts_rest_on_other_patches(models):
    ours, _ = models
    pixel_values = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)
    found, _ = match_relevance(ours, pixel_values, torch.tensor([[58, 3, 4, 59], [58, 40, 41, 59]]))
    assert not torch.allclose(found[0], found[1], rtol=0.1)
