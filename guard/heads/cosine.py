"""The scaled cosine classifier: logits_c = s * cos(h, w_c) with one learned s > 0.

Source: Techapanurak et al., ACCV 2020, which predicts s per image; here, as in later papers, it is one learned
parameter. s = exp(log_scale), so it stays positive; it starts at `INITIAL_SCALE`, where ten
well separated classes already reach a target probability above 0.99. It learns at a hundredth of the learning rate:
while the first answers are still wrong the loss wants less of them, and at the full rate s fell to 0 on small data
(digits, lr 0.1) within an epoch and nothing was learned any more.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .angular import AngularHead
from .base import register_head

INITIAL_SCALE = 16.0
LEARNING_RATE = 0.01


@register_head
class CosineHead(AngularHead):
    """Scaled cosine: s cos(h, w_c), s learned.

    The score that belongs to it is the largest cosine.
    """

    name: ClassVar[str] = "cosine"
    source: ClassVar[str] = "Techapanurak et al., ACCV 2020"

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.log_scale = nn.Parameter(torch.tensor(math.log(INITIAL_SCALE)))

    def current_scale(self) -> Tensor:
        value = self.log_scale.detach()
        return value.lerp(self.log_scale, LEARNING_RATE).exp()  # its value, and a hundredth of its gradient
