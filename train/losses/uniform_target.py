"""R-OE: outliers get the uniform distribution as target (Hendrycks et al., ICLR 2019).

L = mean over outliers of [ logsumexp(f) - mean_c f_c ] = CE(U, p) >= log C,  p = softmax f;  the gradient of KL(U || p)
  = mean over outliers of KL(p || U) + log C = 2 log C - entropy(p)           where divergence is "p_u": also >= log C
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from .base import Batch, Regulariser

Divergence = Literal["u_p", "p_u"]


def uniform_target_loss(logits: Tensor) -> Tensor:
    """Mean cross-entropy to the uniform distribution; logits (K, C) -> scalar >= log C."""
    return (logits.logsumexp(-1) - logits.mean(-1)).mean()


def negative_entropy_loss(logits: Tensor) -> Tensor:
    """KL(p || U) + log C of each of logits (K, C), (K,): at least log C, as the cross-entropy to the uniform one."""
    log_p = logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1) + 2 * math.log(logits.shape[-1])


class UniformTargetLoss(Regulariser):
    """`uniform_target_loss` of the outliers times `weight`; auxiliary images that have a class are left out.

    Args:
        divergence: "u_p": KL(U || p); "p_u": KL(p || U), whose gradient fades where p is sure of one class.
    """

    reads_labels = False

    def __init__(self, weight: float = 0.5, divergence: Divergence = "u_p") -> None:
        super().__init__()
        self.weight, self.divergence = weight, divergence

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits, labels = batch.outliers.logits.float(), batch.outlier_labels
        if labels is None and self.divergence == "u_p":
            return {"uniform": self.weight * uniform_target_loss(logits)}
        outside = (labels < 0).float() if labels is not None else logits.new_ones(len(logits))
        entropy = self.divergence == "p_u"
        each = negative_entropy_loss(logits) if entropy else logits.logsumexp(-1) - logits.mean(-1)
        return {"uniform": self.weight * (each * outside).sum() / outside.sum().clamp_min(1)}
