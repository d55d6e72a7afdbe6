"""Largest cosine to a class weight. Source: Techapanurak et al., ACCV 2020."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError
from ..heads import LastLayer, unit
from .base import Need, Score, register_score, unfitted


def cosine(features: Tensor, weight: Tensor) -> Tensor:
    """- max_c cos(h, w_c), in [-1, 1]; features (N, D), weight (C, D) -> (N,)."""
    return -F.linear(unit(features), unit(weight)).amax(-1)


@register_score
class Cosine(Score):
    """ood_score = - max_c cos(h, w_c).

    A cosine head has computed the cosines already (logits = s cos): then only its s is kept, and the graph gets two
    nodes instead of a second matrix product. Of `weight` (C, D) and `scale` () the one that is not used is empty.
    """

    name: ClassVar[str] = "cosine"
    equation: ClassVar[str] = "- max_c cos(h, w_c)"
    source: ClassVar[str] = "Techapanurak et al., ACCV 2020"
    needs: ClassVar[tuple[Need, ...]] = ("features", "weights")
    weight: Tensor
    scale: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weight", torch.zeros(0, 0))
        self.register_buffer("scale", torch.zeros(0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None:
            raise ModelError("score 'cosine' needs a last linear or cosine layer; this classifier has none")
        weight = last_layer.weight.detach().float()
        if last_layer.scale is None:
            self.weight, self.scale = F.normalize(weight), weight.new_zeros(0)
        else:
            self.weight, self.scale = weight.new_zeros(0, 0), weight.new_tensor(last_layer.scale)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if self.weight.numel():
            return cosine(features, self.weight)
        if not self.scale.numel():
            raise unfitted(self)
        return logits.amax(-1) * (-1.0 / self.scale)
