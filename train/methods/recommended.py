"""Tuning with a union of outliers that are made of the training images or drawn by program: what we recommend.

    x~ one of: a phase mix, a warp, curved pieces of several classes, low-pass noise, strokes, a drawn picture
    L = CE(f(x), y) + weight * CE(U, softmax f(x~))
    ood_score = -log p_energy - log p_fdbd - log p_mahalanobis++,   p the share of held-out images as far out by each

A classifier is trained first (or comes from ``init=``) and is then tuned, as by `phase_mix`. No single kind of
outlier is enough: a network learns what tells that kind from its classes, and fails where an OOD image lacks it.
Phase mixes say nothing of flat grounds, warps are softer than photographs, mosaics have seams. What all of a union
have in common is that no class is shown. Trained with them from the first epoch on, a network learns those
differences all the better and detects less of what lacks them: so it is tuned with them, for an eighth of its epochs.

Source: Hendrycks et al., ICLR 2019 (the loss); Mueller & Hein, ICML 2025 (Mahalanobis distance of features of unit
length); Liu & Qin, ICML 2024 (fdbd); the union is ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..outliers.base import OutlierMix
from .base import register
from .phase_mix import PhaseMixTuning

UNION: OutlierMix = {
    "phase_mix": 2.0,
    "mask_mix": 1.0,
    "warp": 1.0,
    "drawn": 0.5,
    "low_pass_noise": 0.5,
    "strokes": 0.5,
}


@register
class Recommended(PhaseMixTuning):
    """Tuning to be unsure of a union of outliers, made of your own images: what we recommend without outlier images."""

    name: ClassVar[str] = "recommended"
    union: ClassVar[OutlierMix] = UNION

    def score_options(self) -> dict[str, Any]:
        return {"parts": ("energy", "fdbd", "mahalanobis"), "part_options": {"mahalanobis": {"normalise": 1.0}}}
