"""Values that change during a run, as functions of how far it is."""

import math


def cosine_schedule(start: float, end: float, step: int, total_steps: int) -> float:
    """Half a cosine from `start` at step 0 to `end` at `total_steps` (Loshchilov and Hutter, arXiv 1608.03983)."""
    return end + (start - end) * (1 + math.cos(math.pi * step / total_steps)) / 2


def epoch_warm_up(start: float, end: float, epoch: int, epochs: int) -> float:
    """Equal steps from `start` in epoch 0 to `end` in the last of `epochs`, and `end` from then on."""
    if epochs == 1 and epoch == 0:
        return start
    if epoch >= epochs - 1:
        return end
    return start + (end - start) * epoch / (epochs - 1)
