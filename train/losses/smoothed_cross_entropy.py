"""Cross-entropy with smoothed labels, of real images and of auxiliary ones that have a class (ATOL,
Zheng et al., NeurIPS 2023).

    L = mean over items with a class of  - sum_c q_c log softmax(f)_c,   q = (1 - a) onehot(y) + a / C

It takes the place of the head's own loss (`Stage.head_loss`), so margins of angular heads do not act.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Batch, Regulariser


class SmoothedCrossEntropyLoss(Regulariser):
    """The mean over the in-distribution batch and the auxiliary images with a class together; `smoothing`: a."""

    def __init__(self, smoothing: float = 0.5) -> None:
        super().__init__()
        self.smoothing = smoothing

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = batch.inliers.logits, batch.labels
        if batch.outlier_labels is not None:
            logits = torch.cat([logits, batch.outliers.logits])
            labels = torch.cat([labels, batch.outlier_labels])
        # not by ignore_index: with smoothing its mean must count the same items, and an all-ignored batch is 0 / 0
        has_class = (labels >= 0).float()
        each = F.cross_entropy(logits.float(), labels.clamp_min(0), reduction="none", label_smoothing=self.smoothing)
        return {"smoothed_ce": (each * has_class).sum() / has_class.sum().clamp_min(1)}
