"""Weighted k-nearest-neighbour classification of frozen features.

Source: Wu et al. 2018, arXiv 1805.01978, section 3.4; Caron et al. 2021 (DINO), arXiv 2104.14294, section 4.1.
"""

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Features

logger = logging.getLogger(__name__)

NEIGHBOURS = (10, 20, 100, 200)
TEMPERATURE = 0.07
# Bounds the similarities in memory: 1,024 x 16,384 in float32 are 64 MiB.
QUERY_CHUNK, KEY_CHUNK = 1024, 16384


def knn_report(
    train: Features, test: Features, num_labels: int, neighbours: Sequence[int] = NEIGHBOURS
) -> dict[int, dict[str, float]]:
    """Accuracy of weighted voting among the nearest training images.

    Args:
        train: Features of the voting images.
        test: Features of the classified images.
        num_labels: Number of labels.
        neighbours: Numbers of voting neighbours. Numbers above the number of training images are dropped; if all are,
            every training image votes.

    Returns:
        For each number of neighbours `accuracy`, and `top5_accuracy` with more than five labels.
    """
    images = len(train.values)
    if too_many := [k for k in neighbours if k > images]:
        logger.warning("k-NN leaves out k = %s: there are %d training images", ", ".join(map(str, too_many)), images)
    neighbours = [k for k in neighbours if k <= images] or [images]
    queries, keys = F.normalize(test.values), F.normalize(train.values)
    similarities, nearest = nearest_neighbours(queries, keys, max(neighbours))
    report = {}
    for k in neighbours:
        votes = weighted_votes(similarities[:, :k], train.labels[nearest[:, :k]], num_labels)
        hits = votes.topk(min(5, num_labels)).indices == test.labels.unsqueeze(1)
        report[k] = {"accuracy": hits[:, 0].double().mean().item()}
        if num_labels > 5:
            report[k]["top5_accuracy"] = hits.any(dim=1).double().mean().item()
    return report


def nearest_neighbours(
    queries: Tensor, keys: Tensor, k: int, query_chunk: int = QUERY_CHUNK, key_chunk: int = KEY_CHUNK
) -> tuple[Tensor, Tensor]:
    """The k keys with the highest cosine similarity to each query, in chunks, which bound the memory.

    Args:
        queries: L2-normalised `[queries, width]`.
        keys: L2-normalised `[keys, width]`, at least k.
        k: Number of keys per query.
        query_chunk: Queries per chunk.
        key_chunk: Keys per chunk.

    Returns:
        Cosine similarities `[queries, k]`, the largest first, and the keys' numbers.
    """
    similarities, numbers = [], []
    for chunk in queries.split(query_chunk):
        best, best_numbers = chunk.new_empty(len(chunk), 0), torch.empty(len(chunk), 0, dtype=torch.long)
        for start in range(0, len(keys), key_chunk):
            found = chunk @ keys[start : start + key_chunk].T
            found, places = found.topk(min(k, found.shape[1]))
            best, best_numbers = torch.cat((best, found), 1), torch.cat((best_numbers, places + start), 1)
            best, places = best.topk(min(k, best.shape[1]))
            best_numbers = best_numbers.gather(1, places)
        similarities.append(best)
        numbers.append(best_numbers)
    return torch.cat(similarities), torch.cat(numbers)


def weighted_votes(similarities: Tensor, labels: Tensor, num_labels: int, temperature: float = TEMPERATURE) -> Tensor:
    """Votes for each label, exp(similarity / temperature) from each neighbour.

    Args:
        similarities: `[images, neighbours]`.
        labels: `[images, neighbours]`, the neighbours' labels.
        num_labels: Number of labels.
        temperature: Temperature of the weights; 0.07 in both papers.

    Returns:
        `[images, num_labels]`.
    """
    votes = similarities.new_zeros(len(similarities), num_labels)
    return votes.scatter_add(1, labels, (similarities / temperature).exp())
