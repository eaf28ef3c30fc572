"""Weighted nearest neighbours against lightly and scikit-learn."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking.knn import knn_predict
from sklearn.neighbors import KNeighborsClassifier
from torch.utils._python_dispatch import TorchDispatchMode

from hf_vit_suite.evaluation.features import Features
from hf_vit_suite.evaluation.knn import knn_report, nearest_neighbours, weighted_votes


def clusters(images: int, width: int = 16, labels: int = 7, seed: int = 0) -> Features:
    """Noisy features around one centre a label, so that neighbours are right often, not always."""
    centres = torch.randn(labels, width, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(labels, (images,), generator=generator)
    return Features(centres[numbers] + 1.5 * torch.randn(images, width, generator=generator), numbers)


@pytest.mark.parametrize("k", [1, 10, 200])
def test_predictions_equal_lightlys(k: int):
    train, test = clusters(500), clusters(100, seed=1)
    # In double precision no rounding can turn one neighbour into another.
    queries, keys = F.normalize(test.values.double()), F.normalize(train.values.double())
    expected = knn_predict(queries, keys.T, train.labels, num_classes=7, knn_k=k, knn_t=0.07)
    similarities, nearest = nearest_neighbours(queries, keys, k)
    found = weighted_votes(similarities, train.labels[nearest], 7).argsort(dim=1, descending=True)
    assert torch.equal(found[:, 0], expected[:, 0])


def test_accuracies_equal_scikit_learns():
    train, test = clusters(400), clusters(150, seed=1)
    report = knn_report(train, test, 7)
    assert list(report) == [10, 20, 100, 200]
    for k, metrics in report.items():
        reference = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
        reference.fit(train.values.double(), train.labels)
        shares = reference.predict_proba(test.values.double())
        labels = test.labels.numpy()
        assert metrics["accuracy"] == pytest.approx((shares.argmax(axis=1) == labels).mean())
        top5 = np.argsort(-shares, axis=1)[:, :5]
        assert metrics["top5_accuracy"] == pytest.approx((top5 == labels[:, None]).any(axis=1).mean())
    assert 0.5 < report[20]["accuracy"] < 1


@pytest.mark.parametrize(("query_chunk", "key_chunk"), [(7, 11), (1, 300), (100, 3)])
def test_chunks_change_nothing(query_chunk: int, key_chunk: int):
    queries, keys = (F.normalize(clusters(images).values.double()) for images in (50, 300))
    expected = nearest_neighbours(queries, keys, 20)
    found = nearest_neighbours(queries, keys, 20, query_chunk, key_chunk)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest result of an operation had."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk():
    queries, keys = torch.randn(500, 4), torch.randn(900, 4)
    with LargestTensor() as largest:
        nearest_neighbours(queries, keys, 10, query_chunk=50, key_chunk=60)
    assert largest.elements <= max(50 * (60 + 10), 500 * 10)


def test_more_neighbours_than_images_are_left_out_and_said_so(caplog):
    train, test = clusters(50), clusters(20, seed=1)
    with caplog.at_level(logging.WARNING):
        assert list(knn_report(train, test, 7)) == [10, 20]
    assert "leaves out k = 100, 200: there are 50 training images" in caplog.text
    assert list(knn_report(clusters(5), test, 7)) == [5]


def test_few_labels_have_no_top5():
    assert "top5_accuracy" not in knn_report(clusters(50, labels=4), clusters(10, labels=4), 4)[10]
