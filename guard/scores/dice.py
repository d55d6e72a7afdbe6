"""Directed sparsification. Source: Sun & Li, ECCV 2022.

    ood_score = base((M * W) h + b),   M = 1 where W * E[h] is at least its percentile over the whole C x D matrix

E[h] is the mean training feature (of unit features for a cosine layer, which sees those), summed in float64. The mask
is folded into the weight when fitting ends: the graph has one matrix product more than the classifier.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer
from ..record import option
from .base import register_score, unfitted
from .relogits import RelogitsOptions, RelogitsScore, layer_input


def dice_mask(weight: Tensor, mean: Tensor, percentile: float) -> Tensor:
    """True (C, D) where weight * mean is not below its percentile; weight (C, D), mean (D,), percentile in [0, 100).

    The percentile lies between two entries, or on one, which is then kept, as its equals are: 0 keeps everything.
    """
    contribution = weight * mean
    rank = math.ceil((contribution.numel() - 1) * percentile / 100)
    return contribution >= contribution.flatten().kthvalue(rank + 1).values


@register_score
class DICE(RelogitsScore):
    """ood_score = base((M * W) h + b), the energy of the most contributing weights by default.

    The default percentile is OpenOOD's. On a WRN-16-2 of 128 features 90 is worse than the plain energy, 30 to 70 are
    better.
    """

    name: ClassVar[str] = "dice"
    equation: ClassVar[str] = "- logsumexp((M * W) h + b)"
    source: ClassVar[str] = "Sun & Li, ECCV 2022"
    needs_fit: ClassVar[bool] = True

    class Options(RelogitsOptions):
        percentile: float = option(
            90.0,
            "Percentage of the last layer's weights that are dropped, in [0, 100); narrow networks want 30 to 70.",
            common=True,
            ge=0,
            lt=100,
        )

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        super().begin(num_features, num_classes, last_layer)
        self._full, self.weight = self.weight, self.weight.new_zeros(0, 0)  # masked, and so fitted, in finish
        self._sum = torch.zeros(num_features, dtype=torch.float64, device=self._full.device)
        self._count = 0

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        for part in layer_input(features.detach(), self.bias).split(256):  # ten times faster than all at once
            self._sum += part.sum(0, dtype=torch.float64)
        self._count += len(features)

    def finish(self) -> None:
        if not self._count:
            raise DataError("score 'dice' saw no data to fit on")
        mask = dice_mask(self._full.double(), self._sum / self._count, self.options.percentile)
        self.weight = self._full * mask
        del self._full, self._sum

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.weight.numel():
            raise unfitted(self)
        return self.rescored(features)
