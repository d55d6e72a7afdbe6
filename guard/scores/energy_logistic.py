"""The energy through the logistic link that VOS-like methods learn. Source: Du et al., ICLR 2022.

    g(x) = log sum_c relu(w_c) exp f_c(x);     ood_score = - (a g + b),  the log-odds of being an outlier

The link is monotone: with w = 1 the ranking is that of `energy`. What it adds is the learned class weights, and a zero
that means "as likely an outlier as not" under the training mixture.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Need, Score, register_score, unfitted

_TINY = 1e-12  # relu(w) may reach 0 for every class; log 0 must not


def weighted_logsumexp(logits: Tensor, class_weights: Tensor) -> Tensor:
    """log sum_c max(w_c, 1e-12) exp f_c; logits (N, C), class_weights (C,) -> (N,)."""
    return (logits + class_weights.clamp_min(_TINY).log()).logsumexp(-1)


@register_score
class EnergyLogistic(Score):
    """ood_score = -(a g + b); state from the regulariser that trained it (`train.losses.energy_logistic`)."""

    name: ClassVar[str] = "energy_logistic"
    equation: ClassVar[str] = "- (a log sum_c relu(w_c) exp f_c + b)"
    source: ClassVar[str] = "Du et al., ICLR 2022"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    trained_by: ClassVar[str] = "vos"
    class_weights: Tensor
    link: Tensor  # (2,): a, b

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("class_weights", torch.zeros(0))
        self.register_buffer("link", torch.tensor([1.0, 0.0]))

    def set_link(self, class_weights: Tensor, slope: Tensor, offset: Tensor) -> None:
        """Take the learned w (C,), a and b."""
        self.class_weights = class_weights.detach().clone()
        self.link = torch.stack([slope.detach().reshape(()), offset.detach().reshape(())])

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.class_weights.numel():
            raise unfitted(self)
        slope, offset = self.link[0], self.link[1]
        return -slope * weighted_logsumexp(logits, self.class_weights) - offset
