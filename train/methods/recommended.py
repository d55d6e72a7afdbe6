"""Tuning with phase mixes, and a score of three parts: what we recommend where no outlier images are at hand.

    training     as `phase_mix`, at a peak learning rate of 0.3 by batches of 128
    ood_score = -log p_energy - log p_fdbd - log p_multilayer_mahalanobis,   p the share of held-out images as far out

The name stands for whatever measures best today. On CIFAR-10 it is better near and far than any score of the plain
network, where unions with noise and drawn pictures gain more far and lose near (docs/methods.md has the measurements).
Energy reads the logits, fdbd the distances to the boundaries between classes, and the Mahalanobis distance of several
layers what no class has: sharpness, contrast and texture too, which the tuning teaches the last layer to forget.
Source: Liu & Qin, ICML 2024 (fdbd); the tuning and the distance of several layers are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .base import register
from .phase_mix import PhaseMixTuning
from .plain import PARTS

LR, AT, LARGEST = 0.1, 32, 0.3  # peak learning rate by so many images a batch; it grows with the batch up to the last


@register
class Recommended(PhaseMixTuning):
    """Tuning to be unsure of phase mixes, and a score of three parts: what we recommend without outlier images."""

    name: ClassVar[str] = "recommended"

    def peak_lr(self, batch_size: int) -> float:
        """0.1 by batches of 32 and fewer, 0.3 from 96 on: in few epochs 0.1 leaves a network short of what it can."""
        return min(LARGEST, LR * max(1.0, batch_size / AT))

    def score_options(self) -> dict[str, Any]:
        return {"parts": PARTS}
