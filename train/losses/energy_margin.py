"""Energies of outliers above those of images by a margin that follows the batch (GCOS, Karzanov & Detyniecki, 2026).

    E = -logsumexp f,   m = q_0.95(E of the images of the batch) - q_0.50(the same)
    L = mean over images i and outliers j of relu(m + E_i - E_j)

The margin is a constant to the gradient, or drawing the images' energies together would be the cheapest way to meet it.
The paper's text was not at hand for how images and outliers are paired: here each is with each.
"""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Regulariser
from .energy_hinge import energy

QUANTILES = (0.5, 0.95)


def adaptive_margin(inliers: Tensor) -> Tensor:
    """m (), at least 0, of energies (N,); no gradient."""
    middle, high = (inliers.detach().quantile(q) for q in QUANTILES)
    return high - middle


def energy_margin_loss(inliers: Tensor, outliers: Tensor) -> Tensor:
    """L (), at least 0, of energies (N,) of images and (K,) of outliers."""
    return (adaptive_margin(inliers) + inliers[:, None] - outliers[None, :]).relu().mean()


class EnergyMarginLoss(Regulariser):
    """`energy_margin_loss` of the logits times `weight`."""

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        inliers, outliers = energy(batch.inliers.logits), energy(batch.outliers.logits)
        return {"margin": self.weight * energy_margin_loss(inliers, outliers)}
