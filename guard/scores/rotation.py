"""How well the four quarter turns of an image are told apart, and how sure of a class the classifier is.

Source: Hendrycks, Mazeika, Kadavath & Song, NeurIPS 2019 (RotPred).

    ood_score = 1/4 sum_r -log softmax(g(rot_r x))_r - KL(u || softmax f(x)),   r = 0 ... 3 quarters anticlockwise
    KL(u || softmax f) = logsumexp f - mean_c f_c - log C >= 0,   u = 1 / C

g is a linear layer on the features that method `rotpred` trains beside the classifier. The natural logarithm, where the
official code and OpenOOD take log2 of both terms: the same order, smaller by ln 2. Logits in place of probabilities:
theirs are infinite where one rounds to 0.

The network sees all four turns, in one batch of 4 N inside the graph: four times the time and memory of another score.
``passes=1`` looks at the upright image alone, at no cost.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..graph.turns import TURNS
from ..record import Record, option
from .base import Need, Score, register_score, unfitted


def divergence_from_uniform(logits: Tensor) -> Tensor:
    """KL(u || softmax f) of logits (N, C): (N,), at least 0."""
    return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])


@register_score
class Rotation(Score):
    """ood_score = mean cross-entropy of the turns - KL(u || softmax f); g from `train.losses.rotation`."""

    name: ClassVar[str] = "rotation"
    equation: ClassVar[str] = "1/4 sum_r -log softmax(g(rot_r x))_r - KL(u || softmax f)"
    source: ClassVar[str] = "Hendrycks et al., NeurIPS 2019"
    needs: tuple[Need, ...] = ("logits", "features", "turned images")  # type: ignore[misc]  # not with passes=1
    trained_by: ClassVar[str] = "rotpred"
    caution: ClassVar[str] = (
        "it needs images that have an up: textures, cells, aerial views and whatever else looks alike when turned "
        "teach it nothing"
    )
    reads_length: ClassVar[bool] = True
    weight: Tensor  # (4, D)
    bias: Tensor  # (4,)

    class Options(Record):
        passes: Literal[1, 4] = option(
            4,
            "How many turns of an image the network looks at: all 4, as published, at four times the time of another "
            "score, or the upright 1.",
            common=True,
        )

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.uses_map = self.options.passes == TURNS
        if not self.uses_map:
            self.needs = ("logits", "features")
        self.register_buffer("weight", torch.zeros(0))
        self.register_buffer("bias", torch.zeros(0))

    def set_layer(self, weight: Tensor, bias: Tensor) -> None:
        """Take g's weight (4, D) and bias (4,)."""
        self.weight, self.bias = weight.detach().clone(), bias.detach().clone()

    def taught(self, donor: Score) -> Score:
        """As learned, with `passes` as asked: both are scores of the same g."""
        assert isinstance(donor, Rotation)
        mine = Rotation(**self.options.model_dump())
        mine.set_layer(donor.weight, donor.bias)
        return mine

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.weight.numel():
            raise unfitted(self)
        shown = [features]
        if self.uses_map:
            assert feature_map is not None  # `GuardModule.look` gives the turned images' features
            shown += feature_map.chunk(TURNS - 1, 1)
        told = [-F.linear(h, self.weight, self.bias).log_softmax(-1)[:, r] for r, h in enumerate(shown)]
        return torch.stack(told).mean(0) - divergence_from_uniform(logits)
