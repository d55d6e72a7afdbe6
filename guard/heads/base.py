"""What a head is, and what scores may know about it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class LastLayer(NamedTuple):
    """The classifier's last layer as scores see it: logits = scale * (weight @ h + bias), or its cosine form.

    weight (C, D); bias (C,) or None; scale is the s of a cosine head (logits = s cos(h, w_c)) and None for linear ones.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float | None = None


class Head(nn.Module):
    """features (N, D) -> logits (N, C)."""

    name: ClassVar[str]

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_classes = num_classes

    def forward(self, features: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def last_layer(self) -> LastLayer:
        """A snapshot of the weights for fitting scores."""
        raise NotImplementedError(f"{type(self).__name__} must define last_layer")
