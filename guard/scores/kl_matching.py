"""Divergence from the nearest class's mean softmax. Source: Hendrycks et al., ICML 2022.

    ood_score = min_c KL(p || d_c),   d_c = mean p of the fitting images that are *predicted* as c

    KL(p || d_c) = sum_j p_j log p_j - sum_j p_j log(d_cj + 1e-12)

A class that was predicted for no image has no d_c and is left out (its divergence is infinite). The paper fits on
validation images; `guard.fit` fits on its training split.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer
from .base import Need, Score, register_score, unfitted

_TINY = 1e-12  # d_c may be 0 in float32; p log 0 must not become NaN at p = 0


def kl_to_nearest(logits: Tensor, log_d: Tensor) -> Tensor:
    """min_c KL(softmax(f) || d_c) >= 0 up to rounding (1e-6), nats; logits (N, C), log_d (K, C) -> (N,)."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    return (p * log_p).sum(-1) - (p @ log_d.T).amax(-1)


@register_score
class KLMatching(Score):
    """ood_score = min_c KL(p || d_c); `log_d` (K, C) holds log(d_c + 1e-12) of the K classes predicted in fitting."""

    name: ClassVar[str] = "kl_matching"
    equation: ClassVar[str] = "min_c KL(p || d_c)"
    source: ClassVar[str] = "Hendrycks et al., ICML 2022"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)
    needs_fit: ClassVar[bool] = True
    log_d: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("log_d", torch.zeros(0, 0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        self._total = torch.zeros(num_classes, num_classes, dtype=torch.float64)
        self._count = torch.zeros(num_classes, dtype=torch.float64)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        p = logits.double().softmax(-1)
        predicted = logits.argmax(-1)
        self._total = self._total.to(p.device).index_add_(0, predicted, p)
        self._count = self._count.to(p.device) + torch.bincount(predicted, minlength=len(self._count))

    def finish(self) -> None:
        seen = self._count > 0
        if not seen.any():
            raise DataError("score 'kl_matching' saw no data to fit on")
        self.log_d = (self._total[seen] / self._count[seen, None] + _TINY).log().float()
        del self._total, self._count

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.log_d.numel():
            raise unfitted(self)
        return kl_to_nearest(logits, self.log_d)
