"""The rejection network: a 2-layer MLP on frozen features, logit > 0 = outlier. Source: DMR, KIRBY.

With C + 1 outputs (KIRBY) the logit is that of the last class against all others, z_C - log sum_(c < C) exp z_c, which
rises with its softmax probability p_C: logit = log p_C / (1 - p_C).

DMR (Choi & Na 2024) flattens the last feature map (128 x 8 x 8 of WRN-40-2 into 8192-2048-1), which ties the head to
one input size; the pooled features are the default here and ``tap="map"`` is the paper's.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..heads import RejectionMLP
from ..record import Record, option
from .base import Need, Score, register_score, unfitted


@register_score
class Rejection(Score):
    """ood_score = W2 relu(W1 z + b1) + b2, with z the pooled features (N, D) or the flattened map."""

    name: ClassVar[str] = "rejection"
    equation: ClassVar[str] = "logit of an MLP on h or on the feature map"
    source: ClassVar[str] = "DMR, Choi & Na 2024"
    needs: tuple[Need, ...] = ("features",)  # type: ignore[misc]  # the feature map with tap='map'
    trained_by: ClassVar[str] = "rejection"
    learns_from_outliers: ClassVar[bool] = True

    class Options(Record):
        hidden: int = option(512, "Width of the hidden layer.", ge=1)
        tap: Literal["pooled", "map"] = option(
            "pooled",
            "What it reads: the pooled features, or the last feature map, as published, for images of one size.",
            common=True,
        )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.uses_map = self.options.tap == "map"
        if self.uses_map:
            self.needs = ("feature map",)
        self.mlp: RejectionMLP | None = None

    def build(self, width: int, outputs: int = 1) -> RejectionMLP:
        """Make the network for inputs of this width; 1 output, or C + 1."""
        self.mlp = RejectionMLP(width, self.options.hidden, outputs)
        return self.mlp

    def read(self, features: Tensor, feature_map: Tensor | None) -> Tensor:
        """What the network reads: (N, width)."""
        if not self.uses_map:
            return features
        if feature_map is None:
            raise ConfigError("score 'rejection' with tap='map' needs a backbone that shows its feature map")
        return feature_map.flatten(1)

    def allocate(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.build(shapes["mlp.0.weight"][1], shapes["mlp.2.weight"][0])
        super().allocate(shapes)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        return outlier_logit(self.outputs(features, feature_map))

    def outputs(self, features: Tensor, feature_map: Tensor | None = None) -> Tensor:
        """What the network gives, (N, 1) or (N, C + 1)."""
        if self.mlp is None:
            raise unfitted(self)
        outputs: Tensor = self.mlp(self.read(features, feature_map))
        return outputs


def outlier_logit(outputs: Tensor) -> Tensor:
    """(N,): the one output, or the last of C + 1 against the others."""
    if outputs.shape[-1] == 1:
        return outputs.squeeze(-1)
    return outputs[:, -1] - outputs[:, :-1].logsumexp(-1)


def rejection_loss(outlier_logits: Tensor, is_outlier: Tensor) -> Tensor:
    """R-BCE: mean binary cross-entropy, outlier = 1; both (N,)."""
    return torch.nn.functional.binary_cross_entropy_with_logits(outlier_logits.float(), is_outlier.float())
