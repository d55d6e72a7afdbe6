"""R-MAXCONF: outliers must not be classified with confidence (Hein et al., CVPR 2019).

L = mean over outliers of log max_c softmax(f)_c, minimised; in [-log C, 0]
"""

from __future__ import annotations

from torch import Tensor

from .base import Batch, Regulariser


def log_confidence(logits: Tensor) -> Tensor:
    """log max_c softmax(f)_c of logits (K, C): (K,), in [-log C, 0]."""
    return logits.amax(-1) - logits.logsumexp(-1)


class MaxConfidenceLoss(Regulariser):
    """Mean `log_confidence` of the outliers times `weight`."""

    reads_labels = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"confidence": self.weight * log_confidence(batch.outliers.logits.float()).mean()}
