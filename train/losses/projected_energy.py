"""R-ELR on outliers of another space, projected to the features: OAL's ablation "w/ energy loss"
(Gao, He & Pu 2024).

    g(h) = log sum_d exp h_d
    L = mean over all N + N items of the binary cross-entropy of a g + b, in-distribution = 1, outlier = 0

with h the network's features and P(u) for outliers u, P = BatchNorm, Linear, ReLU, BatchNorm, learned along. The
official code takes the log-sum-exp over feature dimensions, not over classes, and so does this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..engine.seeds import seeded
from ..outliers.base import PrepareContext
from ..outliers.features.outlier_bank import OutlierBank
from .base import Batch, Regulariser
from .distillation import domain_transfer
from .energy_logistic import energy_logistic_loss


class ProjectedEnergyLoss(Regulariser):
    """`energy_logistic_loss` of features and of as many projected outliers of a bank, times `weight`.

    Args:
        name: of the term.
        bank: the outliers, made when the stage begins.
        weight: OAL's code has 2.5.
        lr_factor: learning rate of P and of the link as a factor of the stage's.
        check: of the bank, before anything is trained.
    """

    def __init__(
        self,
        name: str,
        bank: Callable[[PrepareContext], OutlierBank],
        weight: float = 2.5,
        *,
        lr_factor: float = 2.0,
        check: Callable[[PrepareContext], object] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.weight, self.lr_factor = name, weight, lr_factor
        self.slope = nn.Parameter(torch.tensor(2.0))  # starts on the side that it should be on
        self.offset = nn.Parameter(torch.tensor(0.0))
        self.projector: nn.Sequential | None = None
        self._make_bank = bank
        self._bank: OutlierBank | None = None
        self._check = check

    def check(self, context: PrepareContext) -> None:
        if self._check is not None:
            self._check(context)

    def prepare(self, context: PrepareContext) -> None:
        self._bank = self._make_bank(context)
        with seeded(context.seed):
            projector = domain_transfer(self._bank.width, context.module.classifier.num_features)
        self.projector = projector.to(context.device)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert self._bank is not None and self.projector is not None  # noqa: PT018  (prepared before the first step)
        projected = self.projector(self._bank.draw(batch.labels, batch.generator))
        inliers, outliers = batch.inliers.features.float().logsumexp(-1), projected.logsumexp(-1)
        return {self.name: self.weight * energy_logistic_loss(inliers, outliers, self.slope, self.offset)}
