"""Maximum logit. Source: Hendrycks et al., ICML 2022."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import Need, Score, register_score


def max_logit(logits: Tensor) -> Tensor:
    """- max_c f_c; logits (N, C) -> (N,)."""
    return -logits.amax(-1)


@register_score
class MaxLogit(Score):
    """ood_score = - max_c f_c."""

    name: ClassVar[str] = "max_logit"
    equation: ClassVar[str] = "- max_c f_c"
    source: ClassVar[str] = "Hendrycks et al., ICML 2022"
    reads_length: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return max_logit(logits)
