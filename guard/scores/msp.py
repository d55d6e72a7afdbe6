"""Maximum softmax probability. Source: Hendrycks & Gimpel, ICLR 2017."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..record import option
from .base import Need, Score, ScoreOptions, register_score


def msp(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """- max_c softmax(f / T)_c, in [-1, -1/C]; logits (N, C) -> (N,). In float32 confident images tie at -1."""
    if temperature != 1.0:
        logits = logits / temperature
    return -logits.softmax(-1).amax(-1)


@register_score
class MSP(Score):
    """ood_score = - max_c softmax(f / T)_c."""

    name: ClassVar[str] = "msp"
    equation: ClassVar[str] = "- max_c softmax(f / T)_c"
    source: ClassVar[str] = "Hendrycks & Gimpel, ICLR 2017"
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    class Options(ScoreOptions):
        temperature: float = option(1.0, "T, above 0, in units of the logits.", common=True, gt=0)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return msp(logits, self.options.temperature)
