"""Scaled activations. Source: Xu et al., ICLR 2024: ASH-S without the pruning.

    ood_score = base(W h exp(S1 / S2) + b),   S1 = sum h,  S2 = the sum of the D (1 - percentile / 100) largest of h

The gain depends on the image alone, so that of a cosine layer, which sees no length, nothing changes: the score is the
base's. It is known to fail on classifiers of small images trained by cross-entropy alone and on transformers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..record import option
from .ash import MAX_SHARPENING, largest, num_kept
from .base import register_score, unfitted
from .relogits import RelogitsOptions, RelogitsScore


def scale(features: Tensor, k: int) -> Tensor:
    """exp(S1 / S2) (N, 1) of features (N, D), S2 the sum of the k largest; finite, whatever the signs."""
    total = features.sum(-1, keepdim=True)
    top = (features * largest(features, k).to(features.dtype)).sum(-1, keepdim=True)
    return (total / torch.where(top == 0, torch.ones_like(top), top)).clamp(-MAX_SHARPENING, MAX_SHARPENING).exp()


@register_score
class Scale(RelogitsScore):
    """ood_score = base(W h exp(S1 / S2) + b), the energy of scaled features by default."""

    name: ClassVar[str] = "scale"
    equation: ClassVar[str] = "- logsumexp(W h exp(S1 / S2) + b)"
    source: ClassVar[str] = "Xu et al., ICLR 2024"
    caution: ClassVar[str] = "known to fail on transformers and on small networks trained by cross-entropy alone"

    class Options(RelogitsOptions):
        percentile: float = option(
            85.0, "Percentage of each image's activations that S2 leaves out, in [0, 100).", common=True, ge=0, lt=100
        )

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.weight.numel():
            raise unfitted(self)
        return self.rescored(features, scale(features, num_kept(self.weight.shape[1], self.options.percentile)))
