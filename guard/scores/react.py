"""Rectified activations. Source: Sun et al., NeurIPS 2021.

    ood_score = base(W min(h, t) + b),   t = the percentile of the training activations, over all units jointly

One pass: t is exact while the training features fit into `sample` rows, beyond that it is the percentile of a uniform
sample of them.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer
from ..record import option
from .base import register_score, unfitted
from .relogits import RelogitsOptions, RelogitsScore
from .reservoir import Reservoir


def react(features: Tensor, threshold: Tensor) -> Tensor:
    """min(h, t); features (N, D), threshold () -> (N, D)."""
    return torch.minimum(features, threshold)


@register_score
class ReAct(RelogitsScore):
    """ood_score = base(W min(h, t) + b), the energy of clipped features by default."""

    name: ClassVar[str] = "react"
    equation: ClassVar[str] = "- logsumexp(W min(h, t) + b)"
    source: ClassVar[str] = "Sun et al., NeurIPS 2021"
    needs_fit: ClassVar[bool] = True
    threshold: Tensor

    class Options(RelogitsOptions):
        percentile: float = option(
            90.0,
            "Percentage of the training activations that stay as they are, in (0, 100]; 100 clips at the largest.",
            common=True,
            gt=0,
            le=100,
        )
        sample: int = option(50_000, "Most training images whose features are kept to find it.", ge=1)
        seed: int = option(0, "Seed of that sample.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("threshold", torch.zeros(0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        super().begin(num_features, num_classes, last_layer)
        self.threshold = self.weight.new_zeros(0)
        self._reservoir = Reservoir(self.options.sample, self.options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        self._reservoir.add(features.detach().float())

    def finish(self) -> None:
        activations = self._reservoir.rows().cpu().numpy()
        del self._reservoir
        if not activations.size:
            raise DataError("score 'react' saw no data to fit on")
        smallest = activations.min()
        threshold = np.percentile(activations, self.options.percentile, overwrite_input=True)
        if threshold <= smallest:  # sparse features: most are zero
            raise DataError(
                f"score 'react': percentile {self.options.percentile:g} of the activations is {threshold:g}, their "
                "smallest; clipped there, all images are alike: raise percentile"
            )
        self.threshold = self.weight.new_tensor(float(threshold))

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.threshold.numel():
            raise unfitted(self)
        return self.rescored(react(features, self.threshold))
