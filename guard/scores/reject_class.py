"""Probability of an extra class for outliers. Source: CMG, KIRBY and FodFoM.

    ood_score = log p_r = r - logsumexp([f, r]),   r = w_r . h + b_r the extra class's logit

It belongs to the head "c_plus_1", whose logits f leave r out. Computed as - softplus(logsumexp(f) - r), which keeps its
digits where p_r is nearly 1: there r - logsumexp([f, r]) is a difference of equal numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError
from ..heads import LastLayer
from .base import Need, Score, register_score, unfitted


def reject_class(logits: Tensor, extra: Tensor) -> Tensor:
    """log of the extra class's probability, <= 0; logits (N, C), extra (N,) -> (N,)."""
    return -F.softplus(logits.logsumexp(-1) - extra)


@register_score
class RejectClass(Score):
    """ood_score = log of the probability of the head's extra class."""

    name: ClassVar[str] = "reject_class"
    equation: ClassVar[str] = "r - logsumexp([f, r]), r the extra logit"
    source: ClassVar[str] = "CMG, KIRBY, FodFoM"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "features", "extra class")
    weight: Tensor
    bias: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weight", torch.zeros(0))
        self.register_buffer("bias", torch.zeros(()))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None or last_layer.reject is None:
            raise ModelError(
                "score 'reject_class' needs a classifier with an extra class for outliers: "
                "guard.train(..., head='c_plus_1')"
            )
        weight, bias = last_layer.reject
        self.weight, self.bias = weight.detach().float().clone(), bias.detach().float().clone()

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.weight.numel():
            raise unfitted(self)
        return reject_class(logits, F.linear(features, self.weight[None], self.bias[None]).squeeze(-1))
