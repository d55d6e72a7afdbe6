"""What the heads share whose logits are s cos(h, w_c): the cosines, the inference graph, a margin on the target.

Such a head reads the direction of the pooled features and not their length, so what it shows to scores and synthesisers
is the direction: h is of length 1. The length, which nothing in training holds, made ViM and Mahalanobis near useless
(CosFace on CIFAR-10, five OOD sets: AUROC 64-71 and 29-41 with it, 79-88 and 79-90 without).

Cosines for a loss are computed anew from the features, in float32: under autocast the logits have bfloat16's 8 bits,
and a margin's gradient divides by the sine. The product is N x D x C, nothing beside the backbone.
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
        return F.linear(unit(full_precision(features)), unit(self.class_weights()))

    def forward(self, features: Tensor) -> Tensor:
        if self.training:  # synthetic features need not be of length 1, as embedded ones are
            features = unit(features)
        # s scales the weights, not the logits: then the exporter folds it into them
        return F.linear(features, self.current_scale() * unit(self.class_weights()))

    def last_layer(self) -> LastLayer:
        with torch.no_grad():
            return LastLayer(self.class_weights().detach(), None, float(self.current_scale()))
