"""Reconstructions of masked autoencoders."""

import pytest
import torch
from transformers import ViTImageProcessor

from hf_vit_suite import SuiteMAEConfig, SuiteMAEForPreTraining
from hf_vit_suite.explain import reconstruct, reconstruction_figure
from hf_vit_suite.models.modeling_mae import target_pixels

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_visible_patches_keep_their_pixels_and_masked_ones_get_the_prediction(norm_pix_loss):
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY, norm_pix_loss=norm_pix_loss)).eval()
    pixels, noise = torch.randn(2, 3, 16, 24), torch.rand(2, 24)
    painted, is_masked = (target_pixels(result, 4) for result in reconstruct(model, pixels, noise))
    original, outputs = target_pixels(pixels, 4), model(pixels, noise=noise)
    mask = outputs.mask.bool()
    assert torch.equal(is_masked, outputs.mask.unsqueeze(-1).expand_as(is_masked))
    assert torch.equal(painted[~mask], original[~mask])
    expected = outputs.logits[mask]
    if norm_pix_loss:
        patches = original[mask]
        expected = expected * (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt() + patches.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(painted[mask], expected)


def test_reconstruction_error_is_the_loss_of_pixels():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY)).eval()
    pixels, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    painted, is_masked = reconstruct(model, pixels, noise)
    torch.testing.assert_close(
        ((painted - pixels) ** 2)[is_masked.bool()].mean(), model(pixels, noise=noise).loss.detach()
    )


def test_figure_shows_image_masked_image_and_reconstruction_of_each():
    model = SuiteMAEForPreTraining(SuiteMAEConfig(**TINY, mask_ratio=0.5)).eval()
    pixels, noise = torch.rand(2, 3, 16, 16), torch.rand(2, 16)
    processor = ViTImageProcessor(do_normalize=False)
    figure = reconstruction_figure(model, pixels, noise, processor)
    assert [axis.get_title() for axis in figure.axes[:3]] == ["image", "50% masked", "reconstruction"]
    panels = [torch.tensor(axis.get_images()[0].get_array()) for axis in figure.axes]
    assert len(panels) == 6
    painted, is_masked = reconstruct(model, pixels, noise)
    for row in range(2):
        image, hidden, drawn = panels[3 * row : 3 * row + 3]
        masked = is_masked[row].permute(1, 2, 0).bool()
        torch.testing.assert_close(image, pixels[row].permute(1, 2, 0))
        assert (hidden[masked] == 0.5).all()
        assert torch.equal(hidden[~masked], image[~masked])
        torch.testing.assert_close(drawn, painted[row].permute(1, 2, 0).clamp(0, 1))
