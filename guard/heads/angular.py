"""What the heads share whose logits are s cos(h, w_c): the cosines, the inference graph, a margin on the target.

Such a head reads the direction of the pooled features and not their length, so what it shows to scores and synthesisers
is the direction: h is of length 1. The length, which nothing in training holds, made ViM and Mahalanobis near useless
(CosFace on CIFAR-10, five OOD sets: AUROC 64-71 and 29-41 with it, 79-88 and 79-90 without).

Logits in training, and cosines for a loss, are computed in float32, out of autocast: bfloat16's 8 bits put a cosine of
0.9 off by up to 0.004 (times s, in the logits), and a margin's gradient divides by the sine. The product is N x D x C,
nothing beside the backbone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Head, LastLayer, full_precision


def unit(x: Tensor) -> Tensor:
    """Rows of x (N, D) at length 1, zero rows as they are: F.normalize without its expand (three nodes of a graph)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / length.clamp_min(1e-12)


def in_full_precision(features: Tensor, weight: Tensor) -> Tensor:
    """features (N, D) times weight (C, D) transposed, in float32 whatever autocast says."""
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(full_precision(features), full_precision(weight))


def target_cosines(cosines: Tensor, labels: Tensor) -> Tensor:
    """cos theta_y (N,) of cosines (N, C)."""
    return cosines.gather(1, labels[:, None]).squeeze(1)


def with_target(cosines: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """cosines (N, C) with the labels' column replaced by target (N,)."""
    return cosines.scatter(1, labels[:, None], target[:, None])


class AngularHead(Head):
    """logits_c = s cos(h, w_c); weight (C, D) is used at unit length, features are."""

    def __init__(self, num_features: int, num_classes: int, **options: Any) -> None:
        super().__init__(num_features, num_classes, **options)
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def embed(self, pooled: Tensor) -> Tensor:
        return unit(full_precision(pooled))

    def current_scale(self) -> Tensor | float:
        """s > 0."""
        raise NotImplementedError(f"{type(self).__name__} must define current_scale")

    def class_weights(self) -> Tensor:
        """w_c (C, D), of any length."""
        return self.weight

    def cosines(self, features: Tensor) -> Tensor:
        """cos(h, w_c) (N, C), for a loss."""
        return in_full_precision(unit(full_precision(features)), unit(self.class_weights()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:  # synthetic features need not be of length 1, as embedded ones are
            return in_full_precision(unit(full_precision(features)), self.current_scale() * unit(self.class_weights()))
        # s scales the weights, not the logits: then the exporter folds it into them
        return F.linear(features, self.current_scale() * unit(self.class_weights()))

    def last_layer(self) -> LastLayer:
        with torch.no_grad():
            return LastLayer(self.class_weights().detach(), None, float(self.current_scale()))
