"""A linear head on standardised features. Source: ASCOOD (Regmi, CVPR 2026).

    z = sigma (h - m) / s,   m and s the mean and the deviation of the D coordinates of h itself;   f = W z + b

Every image's z has the same mean and length in training and in use, so no class can be made surer by longer features.
What is left of h, its size and its mean, is not trained, and tells outliers apart: features, as scores, queues and
feature-space outliers have them, are h, and the head standardises whatever it is shown. Scores that compute logits
anew (scale, react, ash, dice) put h itself, unstandardised, into W and b, as the official code does.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..record import Record, option
from .base import LastLayer, full_precision, register_head
from .linear import LinearHead

TINY = 1e-8  # beside s^2, in squared units of features; at most 1e4 times the gradient where all coordinates are alike


def standardise(features: Tensor, sigma: float) -> Tensor:
    """z (N, D): each row of features (N, D) with mean 0 and (biased) deviation sigma; 0 where a row is constant."""
    h = full_precision(features)
    return sigma * F.layer_norm(h, h.shape[-1:], eps=TINY)


@register_head
class StandardisedHead(LinearHead):
    """W z + b, z the features with mean 0 and deviation sigma over the coordinates of each image."""

    name: ClassVar[str] = "standardised"
    source: ClassVar[str] = "ASCOOD, Regmi, CVPR 2026"

    class Options(Record):
        sigma: float = option(
            0.5, "Deviation, above 0, of the coordinates of each image's features before W.", common=True, gt=0
        )

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(standardise(features, self.options.sigma))
        return logits

    def last_layer(self) -> LastLayer:
        return super().last_layer()._replace(standardised=self.options.sigma)
