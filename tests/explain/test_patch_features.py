"""Similarity and main directions of patch features."""

import numpy as np
import pytest
import torch
from explained import CLASSIFIERS, TINY, transformers_classifier, transformers_clip
from references import assert_equals_reference, randomise
from sklearn.decomposition import PCA
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_vit_suite import SuiteViTConfig, SuiteViTModel
from hf_vit_suite.explain import as_colours, patch_features, patch_pca, patch_similarity, principal_components


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_features_are_transformers_normalised_tokens(name: str):
    model, prefix = transformers_classifier(name)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = model.base_model(pixels).last_hidden_state[:, prefix:]
    assert_equals_reference(patch_features(model, pixels), tokens.transpose(1, 2).unflatten(2, (4, 4)))


def test_features_of_clip_are_behind_its_last_norm():
    tower, pixels = transformers_clip().vision_model, torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = tower.post_layernorm(tower(pixels).last_hidden_state[:, 1:])
    assert_equals_reference(patch_features(tower, pixels), tokens.transpose(1, 2).unflatten(2, (4, 4)))


def test_a_layers_features_are_the_backbones():
    model, pixels = randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(2, 3, 24, 48)
    with torch.no_grad():
        tokens = model.norm(model(pixels, output_hidden_states=True).hidden_states[2])[:, 1:]
    assert_equals_reference(patch_features(model, pixels, layer=1), tokens.transpose(1, 2).unflatten(2, (3, 6)))


def test_similarity_is_the_cosine_with_the_patch_under_the_point():
    model, pixels = randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(2, 3, 24, 48)
    features = patch_features(model, pixels)
    expected = torch.cosine_similarity(features, features[:, :, 1:2, 4:5], dim=1)
    found = patch_similarity(model, pixels, (39, 8), resize=False)
    assert_equals_reference(found, expected)
    torch.testing.assert_close(found[:, 1, 4], torch.ones(2))
    assert patch_similarity(model, pixels, (39, 8)).shape == (2, 24, 48)
    with pytest.raises(ValueError, match="within the image of 48 x 24 pixels, got 48, 8"):
        patch_similarity(model, pixels, (48, 8))


def test_components_are_scikit_learns_up_to_sign():
    model, pixels = randomise(SuiteViTModel(SuiteViTConfig(**TINY)), scale=0.3), torch.randn(3, 3, 24, 48)
    features = patch_features(model, pixels).permute(0, 2, 3, 1).reshape(-1, 32).double().numpy()
    expected = PCA(4, svd_solver="full").fit_transform(features).reshape(3, 3, 6, 4).transpose(0, 3, 1, 2)
    found = patch_pca(model, pixels, components=4, resize=False).double().numpy()
    signs = np.sign((found * expected).sum(axis=(0, 2, 3)))[:, None, None]
    assert_equals_reference(torch.from_numpy(found), torch.from_numpy(signs * expected))
    assert patch_pca(model, pixels).shape == (3, 3, 24, 48)


def test_components_of_several_sizes_are_those_of_all_patches():
    wide, tall = torch.randn(8, 2, 6), torch.randn(8, 5, 3)
    together = principal_components([torch.cat([wide.flatten(1), tall.flatten(1)], dim=1).unsqueeze(1)])[0].flatten(1)
    found = principal_components([wide, tall])
    assert [image.shape for image in found] == [(3, 2, 6), (3, 5, 3)]
    torch.testing.assert_close(torch.cat([image.flatten(1) for image in found], dim=1), together)
    with pytest.raises(ValueError, match="components must be from 1 to 8, got 9"):
        principal_components([wide, tall], 9)


class NoFloat64(TorchDispatchMode):
    """Refuses float64 on any accelerator, as Apple's MPS does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                assert not (tensor.dtype == torch.float64 and tensor.device.type == "mps"), function
        return output


def test_components_need_no_float64_on_the_device():
    with FakeTensorMode(), NoFloat64():
        features = [torch.empty(8, 2, 6, device="mps"), torch.empty(8, 5, 3, device="mps")]
        found = principal_components(features)
        assert [(image.shape, image.device.type) for image in found] == [((3, 2, 6), "mps"), ((3, 5, 3), "mps")]


def test_colours_keep_the_order_of_each_component_over_all_pictures():
    projected = [torch.randn(3, 2, 6), torch.randn(3, 5, 3)]
    colours = as_colours(projected)
    before, after = (torch.cat([image.flatten(1) for image in images], dim=1) for images in (projected, colours))
    assert after.min() == 0
    assert after.max() == 1
    for values, painted in zip(before, after, strict=True):
        assert (painted[values.argsort()].diff() >= 0).all()
