"""Outlier exposure. Source: Hendrycks, Mazeika & Dietterich, ICLR 2019.

    L = CE(f(x), y) + weight * mean over outliers of [ logsumexp(f(x~)) - mean_c f_c(x~) ]

The outliers are images that the user gives (``outliers=``). From scratch by default; with ``init=`` it fine-tunes a
trained run, for which the paper uses 10 epochs at lr 0.001.
"""

from __future__ import annotations

from guard.record import option

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register


class OEOptions(MethodOptions):
    """The paper's defaults: 256 outliers to 128 images."""

    weight: float = option(0.5, "Weight of the uniform target on outliers.", common=True, ge=0)
    ratio: float = option(2.0, "Outliers per in-distribution image of a batch.", common=True, gt=0)


@register
class OutlierExposure(Method):
    """Cross-entropy plus uniform targets on outlier images that you give (Hendrycks et al., ICLR 2019)."""

    name = "oe"
    Options = OEOptions
    wants_outliers = "required"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: OEOptions = self.options
        source = image_source(context.outliers, context.per_step(o.ratio), context.num_classes)
        return [Stage("classifier", context.epochs, context.lr, source, (UniformTargetLoss(o.weight),))]
