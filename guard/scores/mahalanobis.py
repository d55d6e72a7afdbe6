"""Mahalanobis distance to the nearest class mean under one shared covariance.

Source: Lee et al., NeurIPS 2018, penultimate layer only, no input perturbation. The covariance is
gathered in float64; the graph works in float32 on whitened features z = A'(h - m), P = A A', around the mean m of all
classes. The nearest z_c is that of largest z.z_c - |z_c|^2 / 2, and the distance is taken from the difference z - z_c:
where classes lie far apart, |z|^2 - 2 z.z_c + |z_c|^2 would cancel.

`normalise=1` is Mahalanobis++ (Mueller & Hein, ICML 2025): z = h / |h| takes the place of h, in the fit as well.

Against float64 the relative error is 1e-6 on features of a CIFAR-10 WRN-16-2, whose covariance has the condition number
1,000, and 1e-5 where that is 3 million.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import register_score, unfitted
from .class_covariance import ClassCovarianceScore


def mahalanobis(features: Tensor, centre: Tensor, whitener: Tensor, class_means: Tensor) -> Tensor:
    """min_c |A'(h - m) - z_c|^2; features (N, D), centre m (D,), whitener A (D, D), class_means z_c (C, D) -> (N,)."""
    z = (features - centre) @ whitener
    nearest = F.linear(z, class_means, class_means.square().sum(-1) / -2).argmax(-1)
    distance: Tensor = torch.linalg.vector_norm(z - class_means.index_select(0, nearest), dim=-1)
    return distance.square()


@register_score
class Mahalanobis(ClassCovarianceScore):
    """ood_score = min_c (h - mu_c)' P (h - mu_c) >= 0, P the inverse of the shrunk tied covariance."""

    name: ClassVar[str] = "mahalanobis"
    equation: ClassVar[str] = "min_c (h - mu_c)' P (h - mu_c)"
    source: ClassVar[str] = "Lee et al., NeurIPS 2018"
    centre: Tensor
    whitener: Tensor
    class_means: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("centre", "whitener", "class_means"):
            self.register_buffer(name, torch.zeros(0))

    def finish(self) -> None:
        moments, whitening = self.gathered()
        seen = moments.count > 0  # a class without images has no mean to be near to
        centre = moments.overall_mean()
        self.centre, self.whitener = centre.float(), whitening.contiguous().float()
        self.class_means = ((moments.mean[seen] - centre) @ whitening).float()

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.whitener.numel():
            raise unfitted(self)
        return mahalanobis(self.read(features, feature_map), self.centre, self.whitener, self.class_means)
