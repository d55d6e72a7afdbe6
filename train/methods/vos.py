"""VOS, virtual outlier synthesis. Source: Du, Wang, Cai & Li, ICLR 2022.

    queue of the last Q features per class -> mu_c, shared Sigma
    per class: of n draws from N(mu_c, Sigma) keep the `select` least likely  -> C * select outlier features v
    L = CE + weight * R-ELR(g),   g = log sum_c relu(w_c) exp f_c,   f(v) = W v + b

Departures, each on purpose. (1) The least likely of n draws are drawn directly, by their exact law, in place of n
draws and a sort (`train.outliers.features.class_gaussian`). (2) The link's slope starts positive, so it never works
against its purpose; ``link_init="random"`` is the published start. (3) The queue holds
min(1000, images of the class) features of each class, so it fills on small data sets too. Gradients reach W and b
through the outliers and the whole network through the energies of in-distribution images; one public copy has neither.
"""

from __future__ import annotations

from guard.record import option

from ..losses.energy_logistic import EnergyLogisticLoss, LinkEnergy, LinkOptions
from ..outliers.features.class_gaussian import ClassGaussian
from .base import Method, MethodContext, MethodOptions, Stage, register


class VOSOptions(LinkOptions, MethodOptions):
    """Defaults are the paper's, except `start` (a share of the epochs: 40 of 100) and `link_init`."""

    queue: int = option(1000, "Last features kept per class, at most as many as it has images.", ge=2)
    draws: int = option(10_000, "Draws from each class's Gaussian of which the least likely are kept.", ge=1)
    select: int = option(1, "Outliers per class and step: how many of the draws are kept.", ge=1)
    weight: float = option(0.1, "Weight of the regulariser beside the cross-entropy.", common=True, ge=0)
    start: float = option(
        0.4, "Share of the epochs, from 0 to below 1, after which outliers are made.", common=True, ge=0, lt=1
    )
    jitter: float = option(1e-4, "What is added to the diagonal of the covariance, in squared units of features.", gt=0)
    energy: LinkEnergy = option(
        "weighted",
        "What the link reads: the log-sum-exp of the logits with learned class weights ('weighted'), or without.",
    )


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
            queue=[max(1, min(o.queue, count)) for count in context.class_counts],
            draws=o.draws,
            select=o.select,
            jitter=o.jitter,
        )
        regulariser = EnergyLogisticLoss(
            context.num_classes,
            weight=o.weight,
            init=o.link_init,
            energy=o.energy,
            link=o.link,
            centred=o.link_init == "positive",
        )
        start = context.epoch_at(o.start)
        return [Stage("classifier", context.epochs, context.lr, synthesiser, (regulariser,), start_epoch=start)]
