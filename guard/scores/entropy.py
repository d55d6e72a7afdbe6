"""Entropy of the softmax. Source: as a score of its own, Chan et al., ICCV 2021."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .base import Need, Score, register_score


def entropy(logits: Tensor) -> Tensor:
    """- sum_c p_c log p_c in [0, log C], nats; logits (N, C) -> (N,). log p = f - logsumexp(f) is finite at p = 0."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


@register_score
class Entropy(Score):
    """ood_score = - sum_c p_c log p_c, in nats."""

    name: ClassVar[str] = "entropy"
    equation: ClassVar[str] = "- sum_c p_c log p_c"
    source: ClassVar[str] = "Chan et al., ICCV 2021"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return entropy(logits)
