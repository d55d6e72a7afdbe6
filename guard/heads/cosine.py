"""The scaled cosine classifier: logits_c = s * cos(h, w_c) with one learned s > 0.

Source: Techapanurak et al. 2020 as used by methods.md A2 (the paper there calls s "a learnable parameter"; the
original predicts it per sample). s = exp(log_scale), so it stays positive; it starts at `INITIAL_SCALE`, where ten
well separated classes already reach a target probability above 0.99.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head, LastLayer

INITIAL_SCALE = 16.0


def unit(x: Tensor) -> Tensor:
    """Rows of x (N, D) at length 1, zero rows as they are: F.normalize without its expand (three nodes of a graph)."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


class CosineHead(Head):
    """weight (C, D) is used at unit length; features too. The score that belongs to it is the largest cosine."""

    name: ClassVar[str] = "cosine"

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def forward(self, features: Tensor) -> Tensor:
        # s scales the weights, not the logits: then the exporter folds it into them
        return F.linear(unit(features), self.log_scale.exp() * unit(self.weight))

    def last_layer(self) -> LastLayer:
        return LastLayer(self.weight.detach(), None, float(self.log_scale.detach().exp()))
