"""R-BCE: a rejection network on frozen features (methods.md 0.2 and A4)."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.module import Taps
from guard.scores import Score
from guard.scores.rejection import Rejection, rejection_loss

from ..method import Batch, Regulariser


class RejectionLoss(Regulariser):
    """Binary cross-entropy of the network's logit, outlier = 1; owns the network while it is trained."""

    def __init__(self, network: Rejection) -> None:
        super().__init__()
        self.network = network
        self.reads_map = network.uses_map

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = torch.cat([self._logits(taps) for taps in (batch.inliers, batch.outliers)])
        is_outlier = torch.zeros_like(logits)
        is_outlier[len(batch.labels) :] = 1
        return {"rejection": rejection_loss(logits, is_outlier)}

    def _logits(self, taps: Taps) -> Tensor:
        tapped = self.network.tapped(taps.features, taps.feature_map).float()  # may come from a bf16 autocast
        return self.network(tapped, taps.logits, tapped)

    def hand_over(self, score: Score) -> None:
        if isinstance(score, Rejection):
            score.mlp = self.network.mlp
