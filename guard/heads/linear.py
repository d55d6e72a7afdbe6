"""The softmax classifier's head: logits = W h + b."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from ..record import Record, option
from .base import Head, LastLayer, full_precision, register_head


class LinearOptions(Record):
    """Label smoothing, which is off: it costs detection (docs/fine_tuning.md)."""

    label_smoothing: float = option(
        0.0, "a of the target (1 - a) e_y + a / C, Szegedy et al., CVPR 2016; 0: the label alone.", ge=0, lt=1
    )


@register_head
class LinearHead(Head):
    """Softmax: W h + b, with torch's default initialisation.

    W is (C, D), b is (C,).
    """

    name: ClassVar[str] = "linear"
    Options: ClassVar[type[Record]] = LinearOptions

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.linear = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        own = isinstance(self.options, LinearOptions)  # heads that build on this one have options of their own
        smoothing = self.options.label_smoothing if own else 0.0
        return {"ce": F.cross_entropy(full_precision(logits), labels, label_smoothing=smoothing)}

    def last_layer(self) -> LastLayer:
        return LastLayer(self.linear.weight.detach(), self.linear.bias.detach())
