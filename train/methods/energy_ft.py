"""Energy-bounded fine-tuning. Source: Liu, Wang, Owens & Li, NeurIPS 2020.

    L = CE(f(x), y) + weight * [ mean_in relu(E - m_in)^2 + mean_out relu(m_out - E)^2 ],   E = -logsumexp f

A plain classifier is trained first (or comes from ``init=``) and is then fine-tuned on it and on the outliers that
``outliers=`` names: images, a store, or a synthesiser. The paper's margins, -23 and -5 for CIFAR-10 and -27 and -5 for
CIFAR-100, belong to its networks; a margin that is not given is a quantile of the starting network's energies
(`train.losses.energy_hinge`). `ratio` and schedule are those of outlier exposure's fine-tuning.
"""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from guard.record import option

from ..losses.energy_hinge import EnergyHingeLoss, Margins
from ..outliers.sources import image_source
from .base import Method, MethodContext, MethodOptions, Stage, register


class EnergyFTOptions(MethodOptions):
    """The paper's defaults but for the margins."""

    margin_in: float | None = option(
        None, "Energy that in-distribution images stay below; default a quantile of the starting network's energies."
    )
    margin_out: float | None = option(
        None, "Energy that outliers stay above; default a quantile of the starting network's energies."
    )
    weight: float = option(0.1, "Weight of the energy hinge.", common=True, ge=0)
    ratio: float = option(2.0, "Outliers per in-distribution image of a batch.", common=True, gt=0)
    tune_epochs: int = option(10, "Epochs of tuning after the classifier's own.", common=True, ge=1)
    tune_lr: float = option(1e-3, "Peak learning rate of the tuning.", gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.margin_in is not None and self.margin_out is not None and self.margin_in >= self.margin_out:
            raise ValueError(
                f"margin_in must be below margin_out, got {self.margin_in} and {self.margin_out}; swap the two"
            )
        return self


@register
class EnergyFineTuning(Method):
    """Fine-tuning that holds energies on their sides of two margins, on outliers that you give (Liu et al. 2020)."""

    name = "energy_ft"
    Options = EnergyFTOptions
    wants_outliers = "required"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: EnergyFTOptions = self.options
        outliers = image_source(context.outliers, context.per_step(o.ratio), context.num_classes)
        hinge = EnergyHingeLoss(Margins(o.margin_in, o.margin_out), outliers, o.weight)
        tuning = Stage("energy", o.tune_epochs, o.tune_lr, outliers, (hinge,), warmup=0.0)
        return context.after_classifier(tuning)
