"""Patches, positions and what images are refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from references import assert_equals_reference

from hf_vit_suite import SuiteViTConfig, SuiteViTModel
from hf_vit_suite.models.embedding import PatchEmbedding, patchify, resize_position_table, sincos_position_table


def test_patchify_equals_unfold():
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(patchify(images, 8), F.unfold(images, kernel_size=8, stride=8).transpose(1, 2))


def test_patch_projection_equals_the_strided_convolution_it_is():
    embedding = PatchEmbedding(SuiteViTConfig(hidden_size=24, num_attention_heads=2, patch_size=8))
    images = torch.randn(2, 3, 32, 48)
    assert_equals_reference(embedding(images), embedding.projection(images).flatten(2).transpose(1, 2))


def test_sincos_table_equals_its_definition():
    rows, columns, width = 3, 5, 16
    expected = np.zeros((rows * columns, width))
    for row in range(rows):
        for column in range(columns):
            for i in range(width // 4):
                frequency = 10000 ** (-i / (width / 4))
                values = np.sin(column * frequency), np.cos(column * frequency)
                values += np.sin(row * frequency), np.cos(row * frequency)
                expected[row * columns + column, i :: width // 4] = values
    assert_equals_reference(sincos_position_table(rows, columns, width)[0], torch.tensor(expected).float())


def test_sincos_model_starts_with_the_table_and_does_not_train_it():
    config = SuiteViTConfig(
        hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8, position_embedding_type="sincos"
    )
    positions = SuiteViTModel(config).embeddings.position_embeddings
    assert not positions.requires_grad
    assert torch.equal(positions[:, 1:], sincos_position_table(4, 4, 16))
    assert not positions[:, 0].any()


@pytest.mark.parametrize("new_grid", [(7, 11), (32, 40), (16, 17), (37, 37)])
@pytest.mark.parametrize("antialias", [False, True])
def test_resizing_with_offset_equals_the_definition_of_dino(antialias: bool, new_grid: tuple[int, int]):
    # facebookresearch/dino and dinov2 give the interpolation a scale of (new + 0.1) / old and no size.
    table = torch.randn(1, 16 * 16, 8)
    grid = table.reshape(1, 16, 16, 8).permute(0, 3, 1, 2)
    scale = [(new + 0.1) / 16 for new in new_grid]
    expected = F.interpolate(grid, scale_factor=scale, mode="bicubic", antialias=antialias)
    expected = expected.permute(0, 2, 3, 1).flatten(1, 2)
    assert_equals_reference(resize_position_table(table, (16, 16), new_grid, antialias, offset=0.1), expected)


def test_equal_grid_returns_the_table_itself():
    table = torch.randn(1, 12, 8)
    assert resize_position_table(table, (3, 4), (3, 4), offset=0.1) is table


def test_half_precision_positions_are_resized_in_float32():
    table = torch.randn(1, 16, 8)
    exact = resize_position_table(table.bfloat16().float(), (4, 4), (7, 5))
    assert torch.equal(resize_position_table(table.bfloat16(), (4, 4), (7, 5)), exact.bfloat16())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 30, 64), r"multiples of the patch size 8, got 30 x 64 pixels: resize or crop to 32 x 64"),
        ((1, 3, 64, 2), r"got 64 x 2 pixels: resize or crop to 64 x 8"),
        ((1, 1, 32, 32), r"pixel_values must have 3 channels, got 1"),
    ],
)
def test_unsuitable_image_is_refused_with_a_remedy(shape: tuple[int, ...], message: str):
    model = SuiteViTModel(SuiteViTConfig(hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8))
    with pytest.raises(ValueError, match=message):
        model(torch.zeros(shape))


def test_dropout_of_the_embeddings_acts_in_training_alone():
    config = SuiteViTConfig(
        hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8, hidden_dropout_prob=0.5
    )
    embeddings, pixels = SuiteViTModel(config).embeddings, torch.randn(2, 3, 32, 32)
    kept, dropped = embeddings.eval()(pixels), embeddings.train()(pixels)
    assert_equals_reference(dropped[dropped != 0], 2 * kept[dropped != 0])
    assert 0.3 < (dropped == 0).float().mean() < 0.7  # 544 values: 9 standard deviations either side of a half


def test_mask_needs_a_mask_token():
    model = SuiteViTModel(SuiteViTConfig(hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8))
    with pytest.raises(ValueError, match="use_mask_token=True"):
        model(torch.zeros(1, 3, 32, 32), bool_masked_pos=torch.zeros(1, 16, dtype=torch.bool))
