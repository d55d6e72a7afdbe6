"""R-K+1: outliers as one more class (CMG, KIRBY, FodFoM).

    L = mean over outliers of -log softmax([f_1 .. f_C, r])_{C+1},   r the extra logit of head "c_plus_1"

In-distribution images have their own cross-entropy over the same C + 1 logits, from the head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from guard.errors import ConfigError
from guard.heads import Head

from ..outliers.base import PrepareContext
from .base import Batch, Regulariser


def extra_logits(head: Head | None, features: Tensor) -> Tensor:
    """All logits (K, C + 1) of features (K, D).

    Raises:
        ConfigError: the head has no extra class.
    """
    logits = None if head is None else head.all_logits(features)
    if head is None or logits is None or logits.shape[-1] == head.num_classes:
        name = "none" if head is None else repr(head.name)
        raise ConfigError(f"a class for outliers needs a head that has one, got {name}; use head='c_plus_1'")
    return logits


class KPlusOneLoss(Regulariser):
    """Cross-entropy of the outliers to the class after the last, times `weight`.

    Auxiliary images that are in-distribution after all (`Outliers.labels`) get the class they have.
    """

    reads_labels = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def prepare(self, context: PrepareContext) -> None:
        head: Head | None = getattr(context.module.classifier, "head", None)
        if head is not None:  # say it now, and not in the first step
            extra_logits(head, torch.zeros(1, head.num_features, device=context.device))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = extra_logits(batch.head, batch.outliers.features.float()).float()
        extra = batch.outliers.logits.shape[-1]
        labels = batch.outlier_labels
        target = torch.full((len(logits),), extra, device=logits.device)
        if labels is not None:
            target = torch.where(labels >= 0, labels, target)
        return {"k_plus_1": self.weight * F.cross_entropy(logits, target)}
