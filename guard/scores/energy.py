"""Free energy. Source: Liu et al., NeurIPS 2020; the outer T is kept."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..record import option
from .base import Need, Score, ScoreOptions, register_score


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """- T logsumexp(f / T); logits (N, C) -> (N,). Low for in-distribution images."""
    if temperature == 1.0:
        return -logits.logsumexp(-1)
    return -temperature * (logits / temperature).logsumexp(-1)


@register_score
class Energy(Score):
    """ood_score = - T logsumexp_c(f_c / T)."""

    name: ClassVar[str] = "energy"
    equation: ClassVar[str] = "- T logsumexp(f / T)"
    source: ClassVar[str] = "Liu et al., NeurIPS 2020"
    reads_length: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    class Options(ScoreOptions):
        temperature: float = option(1.0, "T, above 0, in units of the logits.", common=True, gt=0)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return energy(logits, self.options.temperature)
