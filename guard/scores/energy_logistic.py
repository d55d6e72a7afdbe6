"""The energy through the logistic link that VOS-like methods learn. Source: Du et al., ICLR 2022.

    g(x) = log sum_c relu(w_c) exp f_c(x);     ood_score = - phi(g),  the log-odds of being an outlier
    phi(g) = a g + sum_j v_j relu(u_j g + r_j) + b;   without hidden units j a line, with them a = 0

A line keeps an order or turns it round: with w = 1 and a > 0 the ranking is that of `energy`. What the score adds is
the learned class weights, and a zero that means "as likely an outlier as not" under the training mixture.
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
    """ood_score = -phi(g); state from the regulariser that trained it (`train.losses.energy_logistic`)."""

    name: ClassVar[str] = "energy_logistic"
    equation: ClassVar[str] = "- phi(log sum_c relu(w_c) exp f_c), phi learned: a line or an MLP"
    source: ClassVar[str] = "Du et al., ICLR 2022"
    reads_length: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    trained_by: ClassVar[str] = "vos"
    class_weights: Tensor
    link: Tensor  # (2,): a, b
    hidden: Tensor | None  # (3, units): u, r, v; None for a line

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("class_weights", torch.zeros(0))
        self.register_buffer("link", torch.tensor([1.0, 0.0]))
        self.register_buffer("hidden", None)

    def set_link(self, class_weights: Tensor, slope: Tensor, offset: Tensor, hidden: Tensor | None = None) -> None:
        """Take the learned w (C,), a and b, and u, r, v (3, units) where there are any."""
        self.class_weights = class_weights.detach().clone()
        self.link = torch.stack([slope.detach().reshape(()), offset.detach().reshape(())])
        self.hidden = None if hidden is None else hidden.detach().clone()

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.class_weights.numel():
            raise unfitted(self)
        slope, offset = self.link[0], self.link[1]
        g = weighted_logsumexp(logits, self.class_weights)
        if self.hidden is None:
            return -slope * g - offset
        u, r, v = self.hidden[0], self.hidden[1], self.hidden[2]
        return -((g[:, None] * u + r).relu() @ v) - slope * g - offset
