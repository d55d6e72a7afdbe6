"""R-BCE and R-K+1 of a rejection network on frozen features (DMR, Choi & Na 2024; KIRBY, Kim et al., AAAI 2023)."""

from __future__ import annotations

import copy

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

    Args:
        unit_variance: whether the network learns on features times a constant, sqrt(D) over the length of the first
            batch's, so that coordinates are about 1; its first layer takes the factor over at the end.
    """

    scale: Tensor | None

    def __init__(
        self, network: Rejection, weight: float = 1.0, lr_factor: float = 1.0, *, unit_variance: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.weight = weight
        self.register_buffer("scale", torch.tensor(torch.nan) if unit_variance else None)
        self.lr_factor = lr_factor
        self.reads_map = network.uses_map
        last = None if network.mlp is None else network.mlp[-1]
        self.reads_labels = not (isinstance(last, torch.nn.Linear) and last.out_features == 1)  # else C + 1 classes

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.scale is not None:
            length = batch.inliers.features.detach().float().square().mean().sqrt().clamp_min(1e-6)
            self.scale.copy_(torch.where(self.scale.isnan(), 1 / length, self.scale))
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
        features = outputs.features.float()  # may come from a bf16 autocast
        return self.network.outputs(features if self.scale is None else self.scale * features, feature_map)

    def hand_over(self, score: Score) -> None:
        if isinstance(score, Rejection):
            score.mlp = self.network.mlp
            if self.scale is not None and not self.scale.isnan():
                score.mlp = copy.deepcopy(self.network.mlp)
                assert score.mlp is not None  # it was built to be trained
                first = score.mlp[0]
                assert isinstance(first, torch.nn.Linear)
                with torch.no_grad():
                    first.weight.mul_(self.scale)
