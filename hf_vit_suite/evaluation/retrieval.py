"""Retrieval of the captions of an image, and of the image of a caption."""

import torch
from torch import Tensor

RANKS = (1, 5, 10)
# Bounds the similarities in memory: 64 MiB in float32.
MOST_SIMILARITIES = 2**24


def retrieval_report(
    images: Tensor, texts: Tensor, owners: Tensor, wordings: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Recall both ways, as for COCO and Flickr30k (Karpathy and Fei-Fei 2015, arXiv 1412.2306, section 4.1).

    Every caption is a query with one correct image, its own. An image is a query with any of its captions as correct
    results. Captions of other images with the same words count as correct too, as they can't be distinguished.

    Args:
        images: L2-normalised `[images, width]`, without duplicates.
        texts: L2-normalised `[texts, width]`.
        owners: `[texts]`, the number of each text's image; every image has at least one text.
        wordings: `[texts]`, numbers from 0 that are equal for equal texts; `None` if all differ.

    Returns:
        For `image_to_text` (a hit where any of the image's texts is among the k most similar) and `text_to_image`:
        `recall@1`, `recall@5`, `recall@10` and `median_rank`, from 1.
    """
    numbers = torch.arange(len(images))
    ways = {
        "image_to_text": (images, texts, numbers, owners, wordings),
        "text_to_image": (texts, images, owners, numbers),
    }
    report = {}
    for name, way in ways.items():
        ranks = best_ranks(*way)
        report[name] = {f"recall@{most}": (ranks <= most).double().mean().item() for most in RANKS}
        report[name]["median_rank"] = ranks.double().quantile(0.5).item()
    return report


def best_ranks(
    queries: Tensor, gallery: Tensor, of_queries: Tensor, of_gallery: Tensor, alike: Tensor | None = None
) -> Tensor:
    """The rank, from 1, of each query's most similar partner; items with the same similarity rank before it.

    Args:
        queries: L2-normalised `[queries, width]`.
        gallery: L2-normalised `[items, width]`.
        of_queries: `[queries]`, numbers that are equal for a query and its partners.
        of_gallery: `[items]`, the items' numbers.
        alike: `[items]`, numbers from 0 that are equal for equal items; an item equal to a partner is a partner too.

    Returns:
        `[queries]`, integers.
    """
    chunk = max(1, MOST_SIMILARITIES // len(gallery))
    ranks = []
    for rows, numbers in zip(queries.split(chunk), of_queries.split(chunk), strict=True):
        similarities = rows @ gallery.T
        is_partner = numbers.unsqueeze(1) == of_gallery
        if alike is not None:
            is_partner = spread(is_partner, alike)
        best = similarities.masked_fill(~is_partner, float("-inf")).amax(dim=1, keepdim=True)
        # Not `similarities >= best`: with NaN features every partner would then rank first.
        ranks.append(1 + (~(similarities < best) & ~is_partner).sum(dim=1))
    return torch.cat(ranks)


def spread(is_partner: Tensor, alike: Tensor) -> Tensor:
    """Extends `[queries, items]` to True for every item with the number, in `alike`, of an item that is True."""
    count = is_partner.new_zeros(len(is_partner), int(alike.max()) + 1, dtype=torch.int32)
    return count.index_add(1, alike, is_partner.int())[:, alike] > 0
