"""The masked autoencoder against transformers' ViTMAEForPreTraining, and what it does not compute."""

import copy
import math

import pytest
import torch
from references import assert_equals_reference, from_transformers_mae, gradients, randomise
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from hf_vit_suite import SuiteMAEConfig, SuiteMAEForPreTraining, SuiteMAEModel, preset_config
from hf_vit_suite.models.embedding import resize_position_table, sincos_position_table
from hf_vit_suite.models.modeling_mae import target_pixels, unpatchify

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


def pair(**fields) -> tuple[SuiteMAEForPreTraining, ViTMAEForPreTraining]:
    """Ours and transformers' with the same random weights."""
    theirs = randomise(ViTMAEForPreTraining(ViTMAEConfig(layer_norm_eps=1e-6, **fields)), scale=0.02)
    ours = SuiteMAEForPreTraining(SuiteMAEConfig(**fields))
    ours.load_state_dict(from_transformers_mae(theirs.state_dict()))
    return ours.eval(), theirs


def resize_decoder_positions(model: ViTMAEForPreTraining, grid: tuple[int, int]) -> None:
    """Gives transformers' decoder the positions of another grid.

    Its own resizing runs along the flattened sequence and so mixes rows; the encoder's runs in two dimensions.
    """
    side = model.config.image_size // model.config.patch_size
    first, patches = model.decoder.decoder_pos_embed.data.tensor_split([1], dim=1)
    resized = resize_position_table(patches, (side, side), grid)
    model.decoder.decoder_pos_embed = torch.nn.Parameter(torch.cat((first, resized), dim=1), requires_grad=False)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
@pytest.mark.parametrize("size", [(224, 224), (160, 224)])
def test_base_model_equals_transformers_in_loss_prediction_mask_and_gradients(size, norm_pix_loss):
    ours, theirs = pair(norm_pix_loss=norm_pix_loss)
    grid = (size[0] // 16, size[1] // 16)
    resize_decoder_positions(theirs, grid)
    pixels, noise = torch.randn(2, 3, *size), torch.rand(2, grid[0] * grid[1])
    expected = theirs(pixels, noise=noise, interpolate_pos_encoding=True)
    found = ours(pixels, noise=noise, predict_visible=True)
    assert_equals_reference(found.loss, expected.loss)
    assert_equals_reference(found.logits, expected.logits)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.ids_restore, expected.ids_restore)
    patches = ours.patchify(pixels, interpolate_pos_encoding=True)
    assert torch.equal(patches, theirs.patchify(pixels, interpolate_pos_encoding=True))
    images = ours.unpatchify(found.logits, size)
    assert torch.equal(images, theirs.unpatchify(found.logits, size))
    assert torch.equal(ours.unpatchify(patches, size), pixels)

    expected.loss.backward()
    reference = from_transformers_mae(gradients(theirs))
    ours(pixels, noise=noise).loss.backward()
    found_gradients = gradients(ours)
    assert found_gradients.keys() == reference.keys()
    for name, gradient in found_gradients.items():
        assert_equals_reference(gradient, reference[name], name=name)


def test_three_adamw_steps_give_transformers_weights():
    ours, theirs = pair(norm_pix_loss=True, num_hidden_layers=4, decoder_num_hidden_layers=2)
    optimizers = [
        # A smaller epsilon would blow up the rounding of gradients that are zero, as those of key biases are.
        torch.optim.AdamW(model.train().parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, eps=1e-6)
        for model in (ours, theirs)
    ]
    for _ in range(3):
        pixels, noise = torch.randn(2, 3, 224, 224), torch.rand(2, 196)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(pixels, noise=noise).loss.backward()
            optimizer.step()
    expected = from_transformers_mae(theirs.state_dict())
    for name, weight in ours.state_dict().items():
        assert_equals_reference(weight, expected[name], name=name)


@torch.no_grad()
def test_encoder_equals_transformers_with_nothing_masked():
    ours, theirs = pair(**TINY)
    theirs.config.mask_ratio = 0.0
    theirs.set_attn_implementation("eager")
    pixels = torch.randn(2, 3, 32, 32)
    in_order = torch.arange(16.0).expand(2, -1)
    expected = theirs.vit(pixels, noise=in_order, output_attentions=True, output_hidden_states=True)
    found = ours.vit(pixels, output_attentions=True, output_hidden_states=True)
    assert_equals_reference(found.last_hidden_state, expected.last_hidden_state)
    assert torch.equal(found.pooler_output, found.last_hidden_state[:, 0])
    for name in ("hidden_states", "attentions"):
        for layer, reference in zip(found[name], expected[name], strict=True):
            assert_equals_reference(layer, reference)


@torch.no_grad()
def test_only_masked_patches_are_predicted_unless_the_others_are_asked_for():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY)).eval()
    pixels, noise = torch.randn(2, 3, 32, 48), torch.rand(2, 24)
    every_patch = model(pixels, noise=noise, predict_visible=True)
    masked_only = model(pixels, noise=noise)
    is_masked = masked_only.mask.bool()
    assert torch.equal(is_masked, every_patch.mask.bool())
    torch.testing.assert_close(masked_only.logits[is_masked], every_patch.logits[is_masked])
    assert not masked_only.logits[~is_masked].any()
    assert every_patch.logits[~is_masked].any()
    assert_equals_reference(masked_only.loss, every_patch.loss)


@torch.no_grad()
def test_hidden_patches_cannot_leak_into_the_prediction():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY)).eval()
    pixels, noise = torch.randn(1, 3, 32, 32), torch.rand(1, 16)
    before = model(pixels, noise=noise)
    patches = target_pixels(pixels, 8)
    patches[before.mask.bool()] = 100.0
    after = model(unpatchify(patches, 8, (4, 4)), noise=noise)
    assert torch.equal(after.logits, before.logits)
    assert after.loss > before.loss


def test_pixels_round_trip_and_equal_transformers():
    theirs = ViTMAEForPreTraining(ViTMAEConfig(**TINY))
    pixels = torch.randn(2, 3, 32, 48)
    patches = target_pixels(pixels, 8)
    assert torch.equal(patches, theirs.patchify(pixels, interpolate_pos_encoding=True))
    assert torch.equal(unpatchify(patches, 8, (4, 6)), pixels)


@torch.no_grad()
def test_encoder_and_last_decoder_block_compute_no_token_that_is_not_needed():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY)).eval()
    tokens = {}
    for name in ("vit.encoder", "decoder.trunk.blocks.0.mlp", "decoder.trunk.blocks.1.mlp", "decoder.predict"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, inputs, name=name: tokens.update({name: inputs[0].shape[1]}))
    model(torch.randn(1, 3, 32, 32))
    assert list(tokens.values()) == [1 + 4, 16 + 1, 12, 12]


@torch.no_grad()
def test_only_visible_patches_are_projected():
    embeddings = SuiteMAEModel(SuiteMAEConfig(**TINY)).embeddings
    pixels, visible = torch.randn(1, 3, 32, 32), torch.tensor([[3, 0, 9, 15]])

    def flops(**options) -> int:
        with FlopCounterMode(display=False) as counter:
            embeddings(pixels, **options)
        return counter.get_total_flops()

    assert flops(visible=visible) == flops() / 4
    whole = embeddings(pixels)
    found = embeddings(pixels, visible=visible)
    torch.testing.assert_close(found[:, 1:], whole[:, 1:][:, visible[0]])
    assert torch.equal(found[:, 0], whole[:, 0])


def test_weights_start_as_the_paper_says():
    config = preset_config("mae_vit_base", num_hidden_layers=1, decoder_num_hidden_layers=1)
    model = SuiteMAEForPreTraining(config)
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            matrix = module.weight.detach().flatten(1)
            bound = math.sqrt(6 / sum(matrix.shape))  # Glorot and Bengio 2010, eq. 16
            assert 0.999 * bound < matrix.abs().max() <= bound, name
            assert matrix.std() == pytest.approx(bound / math.sqrt(3), rel=0.01), name
            assert not module.bias.any(), name
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token):
        assert token.std().item() == pytest.approx(0.02, rel=0.15)
    for module, width in ((model.vit.embeddings, 768), (model.decoder, 512)):
        assert torch.equal(module.position_embeddings, sincos_position_table(14, 14, width, num_prefix_tokens=1))
        assert not module.position_embeddings.requires_grad


def test_masks_are_drawn_anew_and_follow_the_seed():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY, mask_ratio=0.5)).eval()
    pixels = torch.randn(4, 3, 32, 32)

    def mask(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(pixels).mask

    assert torch.equal(mask(1), mask(1))
    assert not torch.equal(mask(1), mask(2))
    assert mask(1).sum(dim=1).tolist() == [8.0] * 4


def test_decoder_follows_a_change_of_the_attention_backend():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY))
    for each in (model, copy.deepcopy(model)):
        each.set_attn_implementation("eager")
        assert each.decoder.trunk.blocks[0].attention.config._attn_implementation == "eager"
    each.set_attn_implementation("sdpa")
    assert model.decoder.trunk.blocks[0].attention.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask_ratio": 0.0}, r"mask_ratio must leave at least one of 16 patches visible and one masked, got 0\.0"),
        ({"mask_ratio": 0.99}, r"mask_ratio must leave at least one of 16 patches visible"),
        ({"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers must be at least 1, got 0"),
        ({"decoder_num_attention_heads": 3}, "decoder_hidden_size must be a multiple of decoder_num_attention_heads"),
        (
            {"decoder_hidden_size": 18},
            "decoder_hidden_size must be a multiple of 4 for sine-cosine positions, got 18",
        ),
    ],
)
def test_config_names_the_field_that_is_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        SuiteMAEConfig(**{**TINY, **fields})


def test_noise_of_the_wrong_shape_is_refused():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY))
    with pytest.raises(ValueError, match=r"noise must be \[batch, patches\] = \[2, 16\], got \[2, 15\]"):
        model(torch.randn(2, 3, 32, 32), noise=torch.rand(2, 15))


def test_patches_that_make_no_image_of_the_size_are_refused():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY))
    with pytest.raises(ValueError, match=r"an image of 32 x 32 pixels has 16 patches, got 12: pass"):
        model.unpatchify(torch.randn(2, 12, 192))
