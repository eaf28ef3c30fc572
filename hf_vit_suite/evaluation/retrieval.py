"""Finding the captions of an image and the image of a caption among all others."""

import torch
from torch import Tensor

RANKS = (1, 5, 10)
# Similarities that exist at a time: 64 MiB in float32.
MOST_SIMILARITIES = 2**24


def retrieval_report(
    images: Tensor, texts: Tensor, owners: Tensor, wordings: Tensor | None = None
) -> dict[str, dict[str, float]]:
    """Recall both ways, as for COCO and Flickr30k (Karpathy and Fei-Fei 2015, arXiv 1412.2306, section 4.1).

    Every caption is a query and has one right image, its own. An image is right with any of its captions, and as
    captions that read the same can't be distinguished, with the same words of another image too.

    Args:
        images: `[images, width]`, of length 1; no image twice.
        texts: `[texts, width]`, of length 1.
        owners: `[texts]`, the number of the image that each text tells of; every image has at least one.
        wordings: `[texts]`, numbers from 0 that texts which read the same share; `None` where all differ.

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
    """The rank, from 1, of each query's most similar partner; others that are as similar stand before it.

    Args:
        queries: `[queries, width]`, of length 1.
        gallery: `[items, width]`, of length 1.
        of_queries: `[queries]`, numbers that a query and its partners share.
        of_gallery: `[items]`, the items' numbers.
        alike: `[items]`, numbers from 0 that equal items share: those that equal a partner are partners too.

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
        # Not `similarities >= best`, by which a model whose features are NaN would find everything.
        ranks.append(1 + (~(similarities < best) & ~is_partner).sum(dim=1))
    return torch.cat(ranks)


def spread(is_partner: Tensor, alike: Tensor) -> Tensor:
    """`[queries, items]` True for every item that equals, by its number in `alike`, one that is True already."""
    count = is_partner.new_zeros(len(is_partner), int(alike.max()) + 1, dtype=torch.int32)
    return count.index_add(1, alike, is_partner.int())[:, alike] > 0
