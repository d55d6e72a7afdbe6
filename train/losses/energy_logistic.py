"""R-ELR: energy with a learned logistic link (Du et al., ICLR 2022).

    g(x) = log sum_c relu(w_c) exp f_c(x)
    L = mean over all N + K items of the binary cross-entropy of a g + b, in-distribution = 1, outlier = 0

The mean runs over the concatenated batch: with 128 images and C outliers the latter weigh little, as published. The
official code's Linear(1, 2) with a softmax is the same model; a is its difference of slopes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.scores import Score
from guard.scores.energy_logistic import EnergyLogistic, weighted_logsumexp

from .base import Batch, Regulariser


def energy_logistic_loss(inliers: Tensor, outliers: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Mean BCE of slope * g + offset over inliers g (N,) with target 1 and outliers g (K,) with target 0."""
    g = torch.cat([inliers, outliers])
    target = torch.cat([torch.ones_like(inliers), torch.zeros_like(outliers)])
    return F.binary_cross_entropy_with_logits(slope * g + offset, target)


class EnergyLogisticLoss(Regulariser):
    """`energy_logistic_loss` with learned w (C,), a and b.

    Args:
        weight: factor of the term.
        init: "positive": a = 2, b = 0, w = 1 (a plain energy at the start); "random": as published, w ~ U(0, 1) and
            the difference of two torch-initialised linear units.
    """

    def __init__(self, num_classes: int, weight: float = 0.1, init: Literal["positive", "random"] = "positive") -> None:
        super().__init__()
        self.weight = weight
        if init == "positive":
            class_weights, slope, offset = torch.ones(num_classes), torch.tensor(2.0), torch.tensor(0.0)
        else:
            class_weights = torch.rand(num_classes)
            slope, offset = (pair[1] - pair[0] for pair in (torch.rand(2) * 2 - 1, torch.rand(2) * 2 - 1))
        self.class_weights = nn.Parameter(class_weights)
        self.slope = nn.Parameter(slope)
        self.offset = nn.Parameter(offset)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        weights = self.class_weights.relu()
        inliers = weighted_logsumexp(batch.inliers.logits.float(), weights)
        outliers = weighted_logsumexp(batch.outliers.logits.float(), weights)
        return {"energy": self.weight * energy_logistic_loss(inliers, outliers, self.slope, self.offset)}

    def hand_over(self, score: Score) -> None:
        if isinstance(score, EnergyLogistic):
            score.set_link(self.class_weights.relu(), self.slope, self.offset)
