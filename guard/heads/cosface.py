"""CosFace: an additive margin on the target's cosine. Source: Wang et al., CVPR 2018.

    training   target s (cos theta_y - m), others s cos theta_j;   inference s cos theta_c

s = 30 and m = 0.35, the values of the re-implementations (the paper's s for faces is 64).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..record import Record, option
from .angular import AngularHead, target_cosines, with_target
from .base import register_head


@register_head
class CosFaceHead(AngularHead):
    """CosFace: s cos(h, w_c); in training the target's cosine is lowered by a margin."""

    name: ClassVar[str] = "cosface"
    source: ClassVar[str] = "Wang et al., CVPR 2018"

    class Options(Record):
        scale: float = option(30.0, "s, above 0, that the cosines are multiplied by.", common=True, gt=0)
        margin: float = option(0.35, "m, taken off the target's cosine; in [0, 2).", common=True, ge=0, lt=2)

    def current_scale(self) -> float:
        return float(self.options.scale)

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        cosines = self.cosines(features)
        target = target_cosines(cosines, labels) - self.options.margin
        return {"ce": F.cross_entropy(self.options.scale * with_target(cosines, labels, target), labels)}
