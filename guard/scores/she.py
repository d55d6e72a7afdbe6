"""Simplified Hopfield energy. Source: Zhang et al., ICLR 2023.

    ood_score = - <h, m_c>,   c = argmax f,   m_c = mean h of the correctly classified images of class c

A class none of whose images is classified correctly has the mean of all its images; one without images has m_c = 0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer
from .base import Need, Score, register_score, unfitted


def hopfield(features: Tensor, logits: Tensor, patterns: Tensor) -> Tensor:
    """- <h, m_argmax f>; features (N, D), logits (N, C), patterns m (C, D) -> (N,)."""
    return -(features * patterns.index_select(0, logits.argmax(-1))).sum(-1)


@register_score
class SHE(Score):
    """ood_score = - <h, m_c> with c the predicted class; `patterns` (C, D) holds m."""

    name: ClassVar[str] = "she"
    equation: ClassVar[str] = "- <h, m_c>, c = argmax f"
    source: ClassVar[str] = "Zhang et al., ICLR 2023"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "features")
    needs_fit: ClassVar[bool] = True
    patterns: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("patterns", torch.zeros(0, 0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        # row 0: correctly classified images, row 1: all images
        self._total = torch.zeros(2, num_classes, num_features, dtype=torch.float64)
        self._count = torch.zeros(2, num_classes, dtype=torch.float64)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        x = features.double()
        self._total, self._count = self._total.to(x.device), self._count.to(x.device)
        labels = labels.to(x.device)
        correct = logits.argmax(-1).to(x.device) == labels
        for row, (rows, classes) in enumerate(((x[correct], labels[correct]), (x, labels))):
            self._total[row].index_add_(0, classes, rows)
            self._count[row] += torch.bincount(classes, minlength=self._count.shape[1])

    def finish(self) -> None:
        if not self._count.any():
            raise DataError("score 'she' saw no data to fit on")
        means = self._total / self._count.clamp_min(1)[..., None]
        self.patterns = torch.where(self._count[0, :, None] > 0, means[0], means[1]).float()
        del self._total, self._count

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.patterns.numel():
            raise unfitted(self)
        return hopfield(features, logits, self.patterns)
