"""A classifier tuned to be unsure of phase mixes (ours; no outlier images are needed).

    x~ = F^-1[ |F(x_1)| exp(i phase of x_j at each frequency) ],   the x_j of k different classes
    L = CE(f(x), y) + weight * CE(U, softmax f(x~));   ood_score = -log p_energy - log p_vim   (score "combined")

A classifier is trained first (or comes from ``init=``) and is then tuned for an eighth of its epochs at a small
learning rate. A phase mix has the power spectrum of an in-distribution image (exactly, before pixels are rounded and
cut), so contrast and colour teach nothing, and sharpness little: what is left to tell it by is that nothing is
depicted, and what a spectrum does not hold, such as the kurtosis of edges (docs/outliers.md measures it). Outliers
that differ in one of the former (averages are blurred, shuffled patches have edges) teach that difference instead, and
fail where it is absent; docs/methods.md has the comparison. Energy and ViM miss different outliers; their calibration
p-values add up in one graph. Where in-distribution images are textures themselves, a phase mix is in-distribution: use
another method there.
"""

from __future__ import annotations

from typing import Any, ClassVar

from guard.record import option

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register

TUNED = 0.13  # of the epochs: an eighth


class PhaseMixOptions(MethodOptions):
    """Ours."""

    weight: float = option(0.5, "Weight of the uniform target on outliers.", common=True, ge=0)
    ratio: float = option(0.5, "Outliers per in-distribution image of a batch.", common=True, gt=0)
    tune_epochs: int | None = option(
        None, "Epochs of tuning after the classifier's own; default an eighth of those.", common=True, ge=1
    )
    tune_lr: float = option(0.01, "Peak learning rate of the tuning.", common=True, gt=0)


@register
class PhaseMixTuning(Method):
    """Tuning to be unsure of images with mixed phases, which keep every power spectrum (ours; no outliers needed)."""

    name: ClassVar[str] = "phase_mix"
    Options = PhaseMixOptions
    score = "combined"
    wants_outliers = "optional"

    def score_options(self) -> dict[str, Any]:
        return {"parts": ("energy", "vim")}

    def stages(self, context: MethodContext) -> list[Stage]:
        o: PhaseMixOptions = self.options
        count = context.per_step(o.ratio)
        tuning = Stage(
            "tuning",
            o.tune_epochs or max(1, round(TUNED * context.epochs)),
            o.tune_lr,
            image_source(context.outliers or {"phase_mix": 1.0}, count, context.num_classes),
            (UniformTargetLoss(o.weight),),
        )
        return context.after_classifier(tuning)
