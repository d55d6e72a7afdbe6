"""Tuning with phase mixes, and a score of three parts: what we recommend where no outlier images are at hand.

    training     as `phase_mix`
    ood_score = -log p_energy - log p_fdbd - log p_mahalanobis++,   p the share of held-out images as far out by each

The name stands for whatever measures best today. On CIFAR-10 it is better near and far than any score of the plain
network, where unions with noise and drawn pictures gain more far and lose near (docs/methods.md has the measurements).
Energy reads the logits, fdbd the distances to the boundaries between classes, and the Mahalanobis distance of features
of unit length what no class has; none needs a bank. Source: Liu & Qin, ICML 2024 (fdbd); Mueller & Hein, ICML 2025
(Mahalanobis++); the tuning is ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import register
from .phase_mix import PhaseMixTuning


@register
class Recommended(PhaseMixTuning):
    """Tuning to be unsure of phase mixes, and a score of three parts: what we recommend without outlier images."""

    name: ClassVar[str] = "recommended"

    def score_options(self) -> dict[str, Any]:
        return {"parts": ("energy", "fdbd", "mahalanobis"), "part_options": {"mahalanobis": {"normalise": 1.0}}}
