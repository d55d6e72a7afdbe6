"""C + 1 classes: a softmax head with one more class, for outliers. Source: KIRBY, CMG, FodFoM.

    training    cross-entropy over C + 1 logits; regularisers reach the extra one through `all_logits`
    inference   label and probabilities over the first C: the guard says how far out an image is, not a class

Without outliers in training the extra class only learns to stay below the others. The score that reads it is
"reject_class".
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head, LastLayer, full_precision, register_head


@register_head
class CPlus1Head(Head):
    """C + 1: W h + b with a last, extra class for outliers, hidden from label and probabilities."""

    name: ClassVar[str] = "c_plus_1"
    source: ClassVar[str] = "KIRBY, CMG, FodFoM"

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.linear = nn.Linear(num_features, num_classes + 1)

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.linear.weight[:-1], self.linear.bias[:-1])

    def all_logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        extra = F.linear(full_precision(features), self.linear.weight[-1:], self.linear.bias[-1:])
        return {"ce": F.cross_entropy(torch.cat([full_precision(logits), extra], -1), labels)}

    def last_layer(self) -> LastLayer:
        weight, bias = self.linear.weight.detach(), self.linear.bias.detach()
        return LastLayer(weight[:-1], bias[:-1], reject=(weight[-1], bias[-1]))
