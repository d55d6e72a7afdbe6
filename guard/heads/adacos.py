"""AdaCos: a cosine softmax without margin whose scale s follows from the number of classes, or from the batch.

Source: Zhang et al., CVPR 2019.

    fixed      s = sqrt(2) log(C - 1)
    adaptive   s_t = log(B) / cos(min(pi/4, theta_med)), starting at the fixed s
               B = mean over the batch of sum_{j != y} exp(s_{t-1} cos theta_j)
               theta_med = the median of the target angles (the lower one of an even batch)

No gradient flows through s. cos(theta_med) is the median of the target cosines, so no angle is ever computed.
C - 1 and B are taken as 2 where they are less: log 1 = 0 would end all learning (two classes), and a B below 1, which
few well separated classes reach, would turn the sign of s.

s is small: 3.1 for ten classes, where the target probability ends near 0.78 and the loss near 0.25 however well the
classes are separated. That is the method, and the labels do not mind.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..record import Record, option
from .angular import AngularHead, target_cosines
from .base import register_head

FEWEST = 2.0  # least C - 1 and least B


def fixed_scale(num_classes: int) -> float:
    """sqrt(2) log(C - 1), with C - 1 at least 2."""
    return math.sqrt(2) * math.log(max(num_classes - 1, FEWEST))


def adapted_scale(cosines: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """s_t () from the batch's cosines (N, C), its labels (N,) and s_{t-1} ()."""
    target = target_cosines(cosines, labels)
    exponentials = (scale * cosines).exp()
    others = exponentials.sum(-1) - target_cosines(exponentials, labels)
    median = -(-target).median()  # of the angles: torch's median is the lower one, and cosine falls
    return others.mean().clamp_min(FEWEST).log() / median.clamp_min(math.cos(math.pi / 4))


@register_head
class AdaCosHead(AngularHead):
    """AdaCos: s cos(h, w_c), s = sqrt(2) log(C - 1) or adapted to every batch; no margin.

    `s` is a buffer: the adaptive one is part of checkpoints and of the finished guard.
    """

    name: ClassVar[str] = "adacos"
    source: ClassVar[str] = "Zhang et al., CVPR 2019"
    s: Tensor

    class Options(Record):
        adaptive: bool = option(False, "Adapt the scale s to every batch, or keep sqrt(2) log(C - 1).", common=True)

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.register_buffer("s", torch.tensor(fixed_scale(num_classes)))

    @property
    def moves(self) -> bool:
        adaptive: bool = self.options.adaptive
        return adaptive

    def current_scale(self) -> Tensor:
        return self.s

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        cosines = self.cosines(features)
        if self.options.adaptive:
            # a new tensor: the logits of this step's outliers still need the old one for their gradient
            self.s = adapted_scale(cosines.detach(), labels, self.s)
        return {"ce": F.cross_entropy(self.s * cosines, labels)}
