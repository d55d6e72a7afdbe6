"""The head's own loss over real images and generated ones with a class together, as one data set (Dream-ID, Du et al.,
NeurIPS 2023).

    L = mean over all N + K items of the head's loss of (h, f, y)

It takes the place of the loss of the in-distribution images alone (`Stage.head_loss`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Batch, Regulariser


class UnionLoss(Regulariser):
    """`Head.loss` of the in-distribution images and those outside, all of which must have a label."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.head is not None  # guard.train builds no classifier without one
        assert batch.outlier_labels is not None  # a labelled store gives them
        return batch.head.loss(
            torch.cat([batch.inliers.features, batch.outliers.features]),
            torch.cat([batch.inliers.logits, batch.outliers.logits]),
            torch.cat([batch.labels, batch.outlier_labels]),
        )
