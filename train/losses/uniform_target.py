"""R-OE: outliers get the uniform distribution as target (Hendrycks et al., ICLR 2019).

L = mean over outliers of [ logsumexp(f) - mean_c f_c ] = CE(U, softmax f) >= log C
"""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Regulariser


def uniform_target_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy to the uniform distribution; logits (K, C) -> scalar >= log C."""
    return (logits.logsumexp(-1) - logits.mean(-1)).mean()


class UniformTargetLoss(Regulariser):
    """`uniform_target_loss` of the outliers times `weight`; auxiliary images that have a class are left out."""

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = batch.outliers.logits.float(), batch.outlier_labels
        if labels is None:
            return {"uniform": self.weight * uniform_target_loss(logits)}
        outside = (labels < 0).float()
        each = logits.logsumexp(-1) - logits.mean(-1)
        return {"uniform": self.weight * (each * outside).sum() / outside.sum().clamp_min(1)}
