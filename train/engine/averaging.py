"""An exponential moving average of a network, which is often better than the network that was trained."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """Exponential moving average of weights and batch-norm statistics.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's: without it a short run would end near its
    random initialisation (0.999^300 = 0.74 of it after 300 steps).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """shadow <- decay shadow + (1 - decay) module after step t = 0, 1, ...; counters are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.shadow.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)
