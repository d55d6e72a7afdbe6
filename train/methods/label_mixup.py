"""Label-mixup outlier exposure. Source: Assefa Seyoum Wahd, "Deep Metric Learning-Based Out-of-Distribution Detection
with Synthetic Outlier Exposure", 2024 (methods.md A2).

    x~ = a conditional diffusion model's image of onehot(a) + onehot(b), a != b       into a store, pairs equally often
    L  = L_head(f(x), y) + weight * mean over x~ of [ logsumexp(f(x~)) - mean_c f_c(x~) ]
    score: max softmax with head "linear", max cosine with the angular ones (cosine, adacos, arcface, cosface,
    sphereface), whose outliers have no margin

The paper gives no hyperparameters: weight is outlier exposure's, and there is one outlier per in-distribution image.
``outliers=`` names images, or a store made before, in place of those.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ..losses.uniform_target import UniformTargetLoss
from ..outliers.base import Synthesiser
from ..outliers.images.label_mixup import LabelMixup as Mixed
from .base import Method, MethodContext, Stage, register
from .from_store import DecodedOptions, filled_store, given_or

ANGULAR = "cosine", "adacos", "arcface", "cosface", "sphereface"


class LabelMixupOptions(DecodedOptions, Mixed.Options):
    """Options of the images (`train.outliers.images.label_mixup`) and of their use. `weight`: of their loss."""

    weight: float = Field(default=0.5, ge=0)


@register
class LabelMixup(Method):
    """Uniform targets on images that a diffusion model decodes from two classes at once (Wahd 2024)."""

    name = "label_mixup"
    Options = LabelMixupOptions
    score = "msp"
    head_scores: ClassVar[Mapping[str, str]] = dict.fromkeys(ANGULAR, "cosine")
    wants_outliers = "optional"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: LabelMixupOptions = self.options
        count = max(1, round(o.ratio * context.batch_size))
        regulariser = UniformTargetLoss(o.weight)
        return [Stage("classifier", context.epochs, context.lr, self.outliers(context, count), (regulariser,))]

    def outliers(self, context: MethodContext, count: int) -> Synthesiser:
        """`count` per step: those that the user names, or a store of its own."""
        own = functools.partial(filled_store, self.name, self.options, context, count)
        return given_or(own, context, count, self.options.match)
