"""Which parameters decay, and how fast each layer learns."""

import re

from torch import nn

BLOCK = re.compile(r"(?:^|\.)(?:blocks?|layers?)\.(\d+)\.")
EMBEDDING = re.compile(r"(?:^|\.)embeddings?\.")


def decayed_parameter_names(model: nn.Module, with_tokens: bool) -> set[str]:
    """Names of the parameters with weight decay.

    Norms, biases and LayerScale have one dimension and never decay. Tokens and positions begin with a dimension of
    length 1. They decay in pretraining: the code of MAE and DINO exempts one-dimensional parameters and biases alone,
    and CLIP's paper (arXiv 2103.00020, section 2.5) gains and biases. They don't decay in fine-tuning, as in the code
    of ViT, DeiT and MAE.

    Args:
        model: Any model.
        with_tokens: Whether tokens and positions decay.
    """
    return {
        name for name, weight in model.named_parameters() if weight.ndim > 1 and (with_tokens or weight.shape[0] > 1)
    }


def layer_number(name: str, num_layers: int) -> int:
    """Depth of a parameter: 0 the embeddings, 1 to `num_layers` the blocks, `num_layers + 1` the rest (norm, head)."""
    if match := BLOCK.search(name):
        return int(match.group(1)) + 1
    return 0 if EMBEDDING.search(name) else num_layers + 1


def layer_decay_groups(model: nn.Module, groups: list[dict], learning_rate: float, decay: float) -> list[dict]:
    """Splits parameter groups by depth, each layer's rate being `decay` times that of the next one.

    Source: BEiT (Bao et al. 2021, arXiv 2106.08254, appendix) and MAE (arXiv 2111.06377, appendix A.1).

    Args:
        model: Any transformer whose blocks are numbered in the parameters' names.
        groups: An optimizer's groups of this model's parameters.
        learning_rate: Rate of the head.
        decay: Factor a layer, above 0, at most 1.

    Raises:
        ValueError: If the decay is out of range, or no block is found.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {decay}")
    names = {weight: name for name, weight in model.named_parameters()}
    blocks = [int(match.group(1)) for name in names.values() if (match := BLOCK.search(name))]
    if not blocks:
        raise ValueError(f"layer_decay needs numbered blocks, and {type(model).__name__} has none: leave it at 1")
    num_layers = max(blocks) + 1
    split = []
    for group in groups:
        by_depth: dict[int, list[nn.Parameter]] = {}
        for weight in group["params"]:
            by_depth.setdefault(layer_number(names[weight], num_layers), []).append(weight)
        for depth, weights in sorted(by_depth.items()):
            rate = learning_rate * decay ** (num_layers + 1 - depth)
            split.append({**group, "params": weights, "lr": rate})
    return split
