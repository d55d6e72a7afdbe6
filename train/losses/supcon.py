"""Supervised contrastive loss: items of a class together, others apart (Khosla et al., NeurIPS 2020).

    z = h / |h|,   P(i) = the other items of i's class,   A(i) = all other items
    L = mean over i with P(i) not empty of
        - 1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a in A(i)} exp(z_i z_a / t) )

This is L_out of the paper (the mean outside the logarithm). An item without another of its class has nothing to be
pulled to and is no term, though the others still push it away.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Batch, Regulariser


def supcon_loss(features: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Scalar >= 0 of features (N, D) with labels (N,); 0 where no two items share a class.

    Args:
        features: of any length > 0; only their directions count.
        labels: int64; items with a label below 0 are left out altogether.
        temperature: t > 0.
    """
    z = F.normalize(features.float(), dim=-1)
    counts = labels >= 0
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    others = counts & ~itself  # (N, N): columns that row i is compared with
    similarity = (z @ z.T / temperature).masked_fill(~others, -torch.inf)
    # a row without any other item would be -inf throughout, and its gradient NaN
    lonely = ~others.any(-1, keepdim=True)
    log_probability = similarity.masked_fill(lonely, 0.0).log_softmax(-1)
    positives = (labels[:, None] == labels) & others & counts[:, None]
    number = positives.sum(-1)
    pulled = -log_probability.masked_fill(~positives, 0.0).sum(-1) / number.clamp_min(1)
    return pulled.sum() / (number > 0).sum().clamp_min(1)


def projector(width: int, out: int = 128) -> nn.Module:
    """Features (N, width) to where they are compared (N, out): what a class shares need not be all that they hold.

    Linear, batch norm, ReLU, linear; the comparison leaves it behind after training.
    """
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, out))


class SupConLoss(Regulariser):
    """`supcon_loss` of the in-distribution features and those of auxiliary images that have a class, times `weight`.

    A class's real and auxiliary images share its label and pull each other. (In ATOL's official code the auxiliary
    labels are shifted, and the two domains push each other apart.)

    Args:
        outlier_class: outliers are one more class (FodFoM); otherwise they take no part.
        project: through which features are compared, learned with the classifier; None: as they are.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 0.07,
        *,
        outlier_class: bool = False,
        project: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.temperature, self.outlier_class = weight, temperature, outlier_class
        self.project = project

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features, labels = batch.inliers.features, batch.labels
        outside = self._outlier_labels(batch)
        if outside is not None:
            features, labels = torch.cat([features, batch.outliers.features]), torch.cat([labels, outside])
        if self.project is not None:
            features = self.project(features.float())
        return {"supcon": self.weight * supcon_loss(features, labels, self.temperature)}

    def _outlier_labels(self, batch: Batch) -> Tensor | None:
        labels = batch.outlier_labels
        if not self.outlier_class:
            return labels
        extra = batch.outliers.logits.shape[-1]  # the class after the last
        if labels is None:
            labels = batch.labels.new_full((len(batch.outliers.features),), -1)
        return torch.where(labels < 0, extra, labels)
