"""The softmax classifier's head: logits = W h + b."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from .base import Head, LastLayer, register_head


@register_head
class LinearHead(Head):
    """Softmax: W h + b, with torch's default initialisation.

    W is (C, D), b is (C,).
    """

    name: ClassVar[str] = "linear"

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits

    def last_layer(self) -> LastLayer:
        return LastLayer(self.linear.weight.detach(), self.linear.bias.detach())
