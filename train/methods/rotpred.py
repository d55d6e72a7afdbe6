"""RotPred, rotation prediction beside the classes. Source: Hendrycks, Mazeika, Kadavath & Song, NeurIPS 2019.

    L = CE(f(x), y) + weight * mean over r of CE(g(rot_r x), r),   r = 0 ... 3 quarter turns;   g a linear layer on h
    with outliers=    + outlier_weight * CE(U, softmax f(x~))
    ood_score = 1/4 sum_r -log softmax(g(rot_r x))_r - KL(u || softmax f(x))

A network that must say which way up an image is looks at the object and its parts. Images are augmented first and then
turned, as in the official code and OpenOOD; the batch, its turned copies and the outliers go through the network in one
pass. Weight 1 is OpenOOD's, and the official code's: its published command has weight 3 in a sum of three tasks that is
divided by 3, and weight 0 for the two others, translations.

It needs images that have an up. Training costs 1 + `ratio` passes: four times that of `plain` as published, 1.5 times
with ratio=0.5.
"""

from __future__ import annotations

from typing import Any

from guard.errors import ConfigError
from guard.record import changed, option

from ..losses.base import Regulariser
from ..losses.rotation import RotationLoss
from ..losses.uniform_target import UniformTargetLoss
from ..outliers.base import Synthesiser
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register

OF_OUTLIERS = ("outlier_weight", "outlier_ratio")


class RotPredOptions(MethodOptions):
    """Weights of the official code; outliers as in outlier exposure, where there are any."""

    weight: float = option(1.0, "Weight of the rotation's cross-entropy beside that of the classes.", common=True, ge=0)
    ratio: float = option(
        3.0,
        "Turned copies per image of a batch: 3 are all, as published; 0.5 turns half of the images once, at random.",
        common=True,
        gt=0,
        le=3,
    )
    outlier_weight: float = option(0.5, "Weight of the uniform target on outliers, with outliers=.", ge=0)
    outlier_ratio: float = option(1.0, "Outliers per in-distribution image of a batch, with outliers=.", gt=0)


@register
class RotPred(Method):
    """Cross-entropy of the classes and of four quarter turns of each image (Hendrycks et al., NeurIPS 2019)."""

    name = "rotpred"
    Options = RotPredOptions
    score = "rotation"
    wants_outliers = "optional"

    def check_outliers(self, outliers: Any) -> None:
        unread = [name for name in changed(self.options) if name in OF_OUTLIERS] if outliers is None else []
        if unread:
            raise ConfigError(
                f"method 'rotpred' does not read {unread[0]}={getattr(self.options, unread[0])} without outliers=; "
                "name some, such as outliers='phase_mix', or drop it"
            )

    def stages(self, context: MethodContext) -> list[Stage]:
        o: RotPredOptions = self.options
        source: Synthesiser | None = None
        losses: tuple[Regulariser, ...] = (RotationLoss(context.num_features, o.weight, o.ratio),)
        if context.outliers:
            source = image_source(context.outliers, context.per_step(o.outlier_ratio), context.num_classes)
            losses = (*losses, UniformTargetLoss(o.outlier_weight))
        return [Stage("classifier", context.epochs, context.lr, source, losses)]
