"""Generalised entropy. Source: Liu et al., CVPR 2023 (methods.md C).

    ood_score = sum over the m largest p_c of (p_c (1 - p_c))^gamma

gamma = 0.1 makes it sensitive to probabilities of 1e-9 and less, and to those as near to 1, where 1 - p in float32 is 0
long before (1 - p)^0.1 is small: so the largest probability's complement is summed from the other classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..manifest import Record
from .base import Need, Score


def generalised_entropy(logits: Tensor, gamma: float, m: int) -> Tensor:
    """sum over the m largest p_c of (p_c (1 - p_c))^gamma, >= 0; logits (N, C) -> (N,). All classes where C <= m."""
    x = logits - logits.amax(-1, keepdim=True)  # p = e^x / total; 0 for the largest
    e, is_top = x.exp(), x >= 0
    # what the others of a largest class have; of classes that tie, all but one count among the others
    rest = torch.where(is_top, 0.0, e).sum(-1, keepdim=True) + (is_top.sum(-1, keepdim=True) - 1)
    total = rest + 1
    if m < logits.shape[-1]:
        x = x.topk(m, dim=-1).values
        e, is_top = x.exp(), x >= 0
    complement = torch.where(is_top, rest, total - e)
    return (gamma * (x + complement.log() - 2 * total.log())).exp().sum(-1)


class GEN(Score):
    """ood_score = sum over the m largest p_c of (p_c (1 - p_c))^gamma."""

    name: ClassVar[str] = "gen"
    equation: ClassVar[str] = "sum of (p_c (1 - p_c))^gamma over the m largest p_c"
    source: ClassVar[str] = "Liu et al., CVPR 2023"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    class Options(Record):
        gamma: float = Field(default=0.1, gt=0)
        m: int = Field(default=100, ge=1)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return generalised_entropy(logits, self.options.gamma, self.options.m)
