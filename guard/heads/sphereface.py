"""SphereFace: a multiplicative margin on the target's angle. Source: Liu et al., CVPR 2017.

    training    target |z| (lambda cos theta_y + psi(theta_y)) / (1 + lambda), others |z| cos theta_j
    inference   |z| cos theta_c = z . w_c / |w_c|
    psi(theta)  (-1)^k cos(m theta) - 2k on [k pi/m, (k+1) pi/m]: falls all the way, which cos(m theta) does not
    lambda      max(5, 1000 / (1 + 0.12 t)) at step t: the margin comes in slowly and never whole

Weights have unit length, features do not: the norm is what the softmax is sure of. For whole m, cos(m theta) is a
Chebyshev polynomial of the cosine and k counts the cos(i pi/m) above it, so nothing needs an angle. For other m >= 1
the angle is taken. t is counted in a buffer, so a run resumes where it was.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..record import Record, option
from .angular import AngularHead, in_full_precision, target_cosines, unit, with_target
from .base import LastLayer, full_precision, register_head

_EDGE = 1e-6  # acos has an infinite gradient at -1 and 1


def psi(cosines: Tensor, margin: float) -> Tensor:
    """The falling extension of cos(m theta), of cosines (N,); any m >= 1."""
    m = int(margin)
    if m != margin:
        angle = margin * cosines.clamp(-1 + _EDGE, 1 - _EDGE).acos()
        k = (angle.detach() / math.pi).floor()
        return (1 - 2 * (k % 2)) * angle.cos() - 2 * k
    before, multiple = torch.ones_like(cosines), cosines
    for _ in range(m - 1):
        before, multiple = multiple, 2 * cosines * multiple - before
    turns = torch.zeros_like(cosines)
    for i in range(1, m):
        turns = turns + (cosines < math.cos(i * math.pi / m))
    return (1 - 2 * (turns % 2)) * multiple - 2 * turns


def annealing(step: Tensor) -> Tensor:
    """lambda at step t (), from 1000 down to 5."""
    return (1000 / (1 + 0.12 * step)).clamp_min(5.0)


@register_head
class SphereFaceHead(AngularHead):
    """SphereFace: z . w_c with unit weights; in training the target's angle is multiplied by a margin."""

    name: ClassVar[str] = "sphereface"
    source: ClassVar[str] = "Liu et al., CVPR 2017"
    step: Tensor

    class Options(Record):
        margin: float = option(
            4.0,
            "m that the target's angle is multiplied by, 1 (none) to 16, whole or not.",
            common=True,
            ge=1,
            le=16,
        )

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def embed(self, pooled: Tensor) -> Tensor:
        return pooled

    def forward(self, features: Tensor) -> Tensor:
        return (
            in_full_precision(features, unit(self.weight)) if self.training else F.linear(features, unit(self.weight))
        )

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        features = full_precision(features)
        cosines = self.cosines(features)
        target, strength = target_cosines(cosines, labels), annealing(self.step)
        blended = (strength * target + psi(target, self.options.margin)) / (1 + strength)
        self.step += 1
        norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        return {"ce": F.cross_entropy(norms * with_target(cosines, labels, blended), labels)}

    def last_layer(self) -> LastLayer:
        return LastLayer(unit(self.weight).detach(), None)  # linear in the features: they keep their norm
