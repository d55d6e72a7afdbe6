"""Linear heads behind a hidden layer: the features that scores and synthesisers see are relu(V h + c).

CMG's official code tunes such a network (512 units) on frozen features, where a linear head has few ways to tell
outliers that are mixed from the features of two classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from ..record import Record, option
from .base import Head, register_head
from .c_plus_1 import CPlus1Head
from .linear import LinearHead


class HiddenLayerOptions(Record):
    """The hidden layer's size."""

    hidden: int = option(512, "Units of the hidden layer: numbers in a feature that scores see.", common=True, ge=1)


class _HiddenLayer(Head):
    """`embed` is the hidden layer, before the `linear` of the class that follows."""

    Options: ClassVar[type[Record]] = HiddenLayerOptions
    linear: nn.Linear

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.num_features = self.options.hidden
        self.hidden = nn.Linear(num_features, self.options.hidden)
        self.linear = nn.Linear(self.options.hidden, self.linear.out_features)

    def embed(self, pooled: Tensor) -> Tensor:
        features: Tensor = self.hidden(pooled).relu()
        return features


@register_head
class MLPHead(_HiddenLayer, LinearHead):
    """W relu(V h + c) + b: softmax behind a hidden layer."""

    name: ClassVar[str] = "mlp"
    source: ClassVar[str] = "CMG's official code, Wang et al., ECML-PKDD 2022"


@register_head
class MLPCPlus1Head(_HiddenLayer, CPlus1Head):
    """C + 1 behind a hidden layer: the last, extra class is for outliers, hidden from label and probabilities."""

    name: ClassVar[str] = "mlp_c_plus_1"
    source: ClassVar[str] = "CMG's official code, Wang et al., ECML-PKDD 2022"
