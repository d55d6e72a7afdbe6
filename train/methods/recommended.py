"""Exposure to a union of outliers that are made from the training images and drawn by program: what we recommend.

    x~ one of: a phase mix, a warp, curved pieces of several classes, a drawn picture, low-pass noise, strokes
    L = CE(f(x), y) + weight * CE(U, softmax f(x~)) from the first epoch on
    ood_score = -log p_energy - log p_fdbd - log p_mahalanobis++,   p the share of held-out images as far out by each

No single kind of outlier is enough: a network learns what tells that kind from its classes, and fails where an OOD image
lacks it. Phase mixes say nothing of flat grounds, warps are softer than photographs. What all kinds of a union have in
common is that no class is shown. Source: Hendrycks et al., ICLR 2019 (the loss); Mueller & Hein, ICML 2025 (Mahalanobis
distance of features of unit length); Liu & Qin, ICML 2024 (fdbd); the union is ours. docs/methods.md has the
measurements, with each OOD set left out of the choice in turn.
"""

from __future__ import annotations

from typing import Any

from guard.record import option

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register

UNION = {
    "phase_mix": 1.0,
    "mask_mix": 1.0,
    "warp": 1.0,
    "drawn": 0.5,
    "low_pass_noise": 0.5,
    "strokes": 0.5,
}


class RecommendedOptions(MethodOptions):
    """Ours."""

    weight: float = option(0.5, "Weight of the uniform target on outliers.", common=True, ge=0)
    ratio: float = option(
        0.4, "Outliers per in-distribution image of a batch; training takes 1 + ratio times as long.", common=True, gt=0
    )


@register
class Recommended(Method):
    """Unsure of a union of outliers made from your own images: what we recommend where no outlier images are at hand."""

    name = "recommended"
    Options = RecommendedOptions
    score = "combined"
    wants_outliers = "optional"

    def score_options(self) -> dict[str, Any]:
        return {"parts": ("energy", "fdbd", "mahalanobis"), "part_options": {"mahalanobis": {"normalise": 1.0}}}

    def stages(self, context: MethodContext) -> list[Stage]:
        o: RecommendedOptions = self.options
        source = image_source(context.outliers or UNION, context.per_step(o.ratio), context.num_classes)
        return [Stage("classifier", context.epochs, context.lr, source, (UniformTargetLoss(o.weight),))]
