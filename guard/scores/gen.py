"""Generalised entropy. Source: Liu et al., CVPR 2023.

    ood_score = sum over the m largest p_c of (p_c (1 - p_c))^gamma

gamma = 0.1 makes it sensitive to probabilities of 1e-9 and less, and to those as near to 1, where 1 - p in float32 is 0
long before (1 - p)^0.1 is small: so the largest probability's complement is summed from the other classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..record import option
from .base import Need, Score, ScoreOptions, register_score


def generalised_entropy(logits: Tensor, gamma: float, m: int) -> Tensor:
    """sum over the m largest p_c of (p_c (1 - p_c))^gamma, >= 0; logits (N, C) -> (N,). All classes where C <= m."""
    largest = logits.max(-1, keepdim=True)
    x, top = logits - largest.values, largest.indices  # p = e^x / total
    e = x.exp()
    rest = e.scatter(-1, top, 0.0).sum(-1, keepdim=True)  # what all others have
    total = rest + 1
    if m < logits.shape[-1]:
        x = x.topk(m, dim=-1).values
        e, top = x.exp(), torch.zeros_like(top)
    complement = (total - e).scatter(-1, top, rest)
    return (gamma * (x + complement.log() - 2 * total.log())).exp().sum(-1)


@register_score
class GEN(Score):
    """ood_score = sum over the m largest p_c of (p_c (1 - p_c))^gamma."""

    name: ClassVar[str] = "gen"
    equation: ClassVar[str] = "sum of (p_c (1 - p_c))^gamma over the m largest p_c"
    source: ClassVar[str] = "Liu et al., CVPR 2023"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    class Options(ScoreOptions):
        gamma: float = option(
            0.1, "Exponent, above 0; the smaller, the more the smallest probabilities count.", common=True, gt=0
        )
        m: int = option(100, "How many of the largest probabilities are summed; all where there are fewer.", ge=1)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return generalised_entropy(logits, self.options.gamma, self.options.m)
