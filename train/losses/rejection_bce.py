"""R-BCE and R-K+1 of a rejection network on frozen features (DMR, Choi & Na 2024; KIRBY, Kim et al., AAAI 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

from guard.graph.outputs import Outputs
from guard.scores import Score
from guard.scores.rejection import Rejection, rejection_loss

from .base import Batch, Regulariser


class RejectionLoss(Regulariser):
    """Teaches the network, which it owns while it is trained.

    One output: mean binary cross-entropy, outlier = 1. C + 1 outputs: mean cross-entropy of the in-distribution images'
    labels, and of class C for outliers. Times `weight`; `lr_factor` as in `Regulariser`.
    """

    def __init__(self, network: Rejection, weight: float = 1.0, lr_factor: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.weight = weight
        self.lr_factor = lr_factor
        self.reads_map = network.uses_map

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        answers = torch.cat([self._answers(outputs) for outputs in (batch.inliers, batch.outliers)])
        if answers.shape[1] == 1:
            is_outlier = torch.zeros(len(answers), device=answers.device)
            is_outlier[len(batch.labels) :] = 1
            return {"rejection": self.weight * rejection_loss(answers.squeeze(-1), is_outlier)}
        target = batch.labels.new_full((len(answers),), answers.shape[1] - 1)
        target[: len(batch.labels)] = batch.labels
        return {"rejection": self.weight * torch.nn.functional.cross_entropy(answers, target)}

    def _answers(self, outputs: Outputs) -> Tensor:
        feature_map = None if outputs.feature_map is None else outputs.feature_map.float()
        return self.network.outputs(outputs.features.float(), feature_map)  # may come from a bf16 autocast

    def hand_over(self, score: Score) -> None:
        if isinstance(score, Rejection):
            score.mlp = self.network.mlp
