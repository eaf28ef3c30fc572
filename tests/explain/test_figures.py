"""Overlays and figures."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from transformers import ViTImageProcessor

from hf_vit_suite.explain import attention_figure, figure, overlay


def test_overlay_has_the_pictures_resolution_and_the_colour_of_each_value():
    picture = Image.new("RGB", (60, 20), "white")
    drawn = overlay(picture, torch.tensor([[0.0, 5.0, 10.0]]))
    assert drawn.shape == (20, 60, 3)
    for column, value in ((0, 0.0), (29, 0.5), (59, 1.0)):
        expected = 0.75 * np.array(colormaps["viridis"](value)[:3]) + 0.25
        np.testing.assert_allclose(drawn[10, column], expected, atol=0.02)


def test_mask_darkens_the_rest_and_colours_are_kept():
    picture = np.ones((4, 8, 3), dtype=np.float32)
    masked = overlay(picture, torch.tensor([[True, False]]))
    assert (masked[:, :4] == 1).all()
    assert (masked[:, 4:] < 0.5).all()
    colours = torch.rand(3, 4, 8)
    np.testing.assert_allclose(overlay(picture, colours), colours.permute(1, 2, 0), atol=1e-6)


def test_figure_has_a_row_a_picture_and_a_colour_bar():
    pictures = [Image.new("RGB", (40, 30)), Image.new("RGB", (20, 50))]
    maps = torch.arange(24.0).view(2, 3, 4)
    drawn = figure(pictures, maps, ["predicted: cat (0.91)", "predicted: owl (0.57)"], ["rollout"], "share")
    FigureCanvasAgg(drawn).draw()
    *panels, bar = drawn.axes
    assert [axis.get_title() for axis in panels] == ["predicted: cat (0.91)", "rollout", "predicted: owl (0.57)", ""]
    assert [axis.images[0].get_array().shape[:2] for axis in panels] == [(30, 40), (30, 40), (50, 20), (50, 20)]
    assert bar.get_ylabel() == "share"
    assert [text.get_text() for text in bar.get_yticklabels()] == ["lowest", "highest"]


def test_colour_bar_of_one_map_has_its_values_and_masks_have_none():
    picture = np.zeros((8, 8, 3))
    assert figure([picture], torch.tensor([[[-2.0, 7.0]]])).axes[-1].get_ylim() == (-2, 7)
    assert len(figure([picture], torch.tensor([[[True, False]]])).axes) == 2


def test_figure_of_other_counts_is_refused():
    with pytest.raises(ValueError, match="got 1 pictures, 2 maps and 1 titles"):
        figure([np.zeros((8, 8, 3))], torch.zeros(2, 4, 4))


def test_attention_figure_is_bright_where_the_attention_is():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, :, 0, 0] = 1
    drawn = attention_figure(torch.zeros(1, 3, 32, 32), maps, ViTImageProcessor(), ["predicted: cat"])
    assert [axis.get_title() for axis in drawn.axes[:4]] == ["predicted: cat", "mean of heads", "head 0", "head 1"]
    drawn_over = np.asarray(drawn.axes[1].images[0].get_array())
    assert drawn_over[:4, :4].mean() > 1.3 * drawn_over[16:, 16:].mean()
