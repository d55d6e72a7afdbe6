"""GCOS, geometrically constrained outlier synthesis; experimental. Source: Karzanov & Detyniecki, ICML 2026.

    outlier features  mu_c +- a v,  v of small variance in class c,  a within quantiles of the class's distances
    L = CE + weight * mean relu(m + E(x) - E(outlier)),   m = q_0.95(E) - q_0.50(E) of the batch

In place of VOS's draws, whose energies are those of images (docs/methods/gcos.md). Experimental: the paper is without
code and its settings are known in part, and it has not been measured beyond digits here. Ours are the schedule and the
weight (VOS's), the shrunk covariance, the number of outliers, and the pairing in the loss
(`train.outliers.features.class_shell`, `train.losses.energy_margin`).
"""

from __future__ import annotations

from guard.errors import ConfigError
from guard.record import option

from ..losses.energy_margin import EnergyMarginLoss
from ..outliers.features.class_shell import ClassShell, ShellOptions
from .base import Method, MethodContext, MethodOptions, Stage, register

FEWEST = 10  # images of a class: 2 of them give the quantiles


class GCOSOptions(ShellOptions, MethodOptions):
    """The shell is the paper's, the schedule VOS's."""

    weight: float = option(0.1, "Weight of the regulariser beside the cross-entropy.", common=True, ge=0)
    start: float = option(
        0.4, "Share of the epochs, from 0 to below 1, after which outliers are made.", common=True, ge=0, lt=1
    )
    ratio: float = option(1.0, "Outliers per in-distribution image of a batch.", common=True, gt=0)


@register
class GCOS(Method):
    """Experimental: features off each class's manifold, held above images in energy (Karzanov & Detyniecki, 2026)."""

    name = "gcos"
    Options = GCOSOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        o: GCOSOptions = self.options
        if min(context.class_counts) < FEWEST:
            raise ConfigError(
                f"method 'gcos' needs {FEWEST} training images of every class for its covariance and quantiles, the "
                f"smallest has {min(context.class_counts)}; add images, or use method='ascood'"
            )
        sized = o.model_copy(update={"queue": min(o.queue, *context.class_counts)})
        shells = ClassShell(context.per_step(o.ratio), context.num_classes, context.num_features, sized)
        start = context.epoch_at(o.start)
        loss = EnergyMarginLoss(o.weight)
        return [Stage("classifier", context.epochs, context.lr, shells, (loss,), start_epoch=start)]
