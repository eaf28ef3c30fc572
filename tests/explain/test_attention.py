"""Attention maps and their figure."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_vit_suite import SuiteViTConfig, SuiteViTForImageClassification, SuiteViTModel
from hf_vit_suite.explain import attention_figure, class_token_attention

TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize("prefix", [{}, {"num_register_tokens": 3}, {"use_distillation_token": True}])
@pytest.mark.parametrize("layer", [-1, 0])
def test_map_is_the_class_tokens_row_on_the_patch_grid(prefix: dict, layer: int):
    config = SuiteViTConfig(**TINY, **prefix)
    model, pixels = SuiteViTModel(config).eval(), torch.randn(2, 3, 16, 40)
    maps = class_token_attention(model, pixels, layer)
    assert maps.shape == (2, 2, 2, 5)
    with torch.no_grad():
        attention = model(pixels, output_attentions=True).attentions[layer]
    for row in range(2):
        for column in range(5):
            token = config.num_prefix_tokens + row * 5 + column
            # Layers that aren't asked for run under SDPA here and eagerly there.
            torch.testing.assert_close(maps[:, :, row, column], attention[:, :, 0, token], rtol=1e-5, atol=1e-6)


def test_model_without_known_tokens_is_refused():
    model = ViTForImageClassification(ViTConfig(**TINY))
    with pytest.raises(ValueError, match=r"need a model of the suite with a class token .* got vit"):
        class_token_attention(model, torch.zeros(1, 3, 32, 32))


def test_figure_is_bright_where_the_attention_is():
    model = SuiteViTForImageClassification(SuiteViTConfig(**TINY))
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, :, 0, 0] = 1
    figure = attention_figure(torch.zeros(1, 3, 32, 32), maps, ViTImageProcessor(), ["predicted: cat"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes
    assert len(axes) == 2 + model.config.num_attention_heads
    assert axes[0].get_title() == "predicted: cat"
    overlay = np.asarray(axes[1].images[1].get_array())
    assert overlay[:8, :8].mean() > 10 * overlay[16:, 16:].mean()
