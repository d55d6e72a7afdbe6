"""The learning rate over a training."""

from __future__ import annotations

import math

from torch.optim import Optimizer

WARMUP = 0.05  # share of the steps


def warm_cosine(progress: float, warmup: float) -> float:
    """Factor of the peak learning rate at `progress` in [0, 1): linear up to `warmup`, then half a cosine to 0."""
    if progress < warmup:
        return max(progress / warmup, 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def set_lr(optimizer: Optimizer, lr: float, progress: float, warmup: float = WARMUP) -> None:
    """Set the learning rate that a peak of `lr` has at `progress`, times a parameter group's own "factor"."""
    factor = warm_cosine(progress, warmup)
    for group in optimizer.param_groups:
        group["lr"] = lr * factor * group.get("factor", 1.0)
