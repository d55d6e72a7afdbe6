"""VOS, virtual outlier synthesis. Source: Du, Wang, Cai & Li, ICLR 2022 (methods.md B1).

    queue of the last Q features per class -> mu_c, shared Sigma
    per class: of n draws from N(mu_c, Sigma) keep the `select` least likely  -> C * select outlier features v
    L = CE + weight * R-ELR(g),   g = log sum_c relu(w_c) exp f_c,   f(v) = W v + b

Departures, each on purpose. (1) The least likely of n draws are drawn directly, by their exact law, in place of n
draws and a sort (`train.outliers.features.class_gaussian`). (2) The link's slope starts positive, so it never works
against its purpose (methods.md 0.2, note 4); ``link_init="random"`` is the published start. (3) The queue holds
min(1000, smallest class) features, so it fills on small data sets too. Gradients reach W and b through the outliers
and the whole network through the energies of in-distribution images; one public copy has neither.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..losses.energy_logistic import EnergyLogisticLoss
from ..outliers.features.class_gaussian import ClassGaussian
from .base import Method, MethodContext, MethodOptions, Stage, register


class VOSOptions(MethodOptions):
    """Defaults are the paper's, except `start` (a share of the epochs: 40 of 100) and `link_init`."""

    queue: int = Field(default=1000, ge=2)
    draws: int = Field(default=10_000, ge=1)
    select: int = Field(default=1, ge=1)
    weight: float = Field(default=0.1, ge=0)
    start: float = Field(default=0.4, ge=0, lt=1)
    jitter: float = Field(default=1e-4, gt=0)
    link_init: Literal["positive", "random"] = "positive"


@register
class VOS(Method):
    """Low-density draws of class Gaussians in feature space, separated by energy (Du et al., ICLR 2022)."""

    name = "vos"
    Options = VOSOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: VOSOptions = self.options
        synthesiser = ClassGaussian(
            context.num_classes,
            context.num_features,
            queue=min(o.queue, *context.class_counts),
            draws=o.draws,
            select=o.select,
            jitter=o.jitter,
        )
        regulariser = EnergyLogisticLoss(context.num_classes, weight=o.weight, init=o.link_init)
        start = int(o.start * context.epochs)
        return [Stage("classifier", context.epochs, context.lr, synthesiser, (regulariser,), start_epoch=start)]
