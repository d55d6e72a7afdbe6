"""Logits again, from changed features or a changed last layer: the common part of ReAct, DICE and ASH.

    linear   f = W h + b
    cosine   f_c = s cos(h, w_c), kept as W with rows s w_c / |w_c| and no b; h enters at unit length

A logit score (`base`) reads the new logits. label and probabilities of the guard stay those of the untouched logits.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ModelError
from ..heads import LastLayer, unit
from ..record import Record, option
from .base import Need, Score, ScoreOptions
from .energy import energy
from .max_logit import max_logit
from .msp import msp


def flat_layer(last: LastLayer) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias of a last layer in float32: bias (C,) of a linear one, (0,) of a cosine one."""
    weight = last.weight.detach().float()
    if last.scale is not None:
        return last.scale * unit(weight), weight.new_zeros(0)
    if last.bias is None:
        return weight.clone(), weight.new_zeros(len(weight))
    return weight.clone(), last.bias.detach().float().clone()


def layer_input(features: Tensor, bias: Tensor) -> Tensor:
    """What the weight is multiplied with: features (N, D) as they are, at unit length for a cosine layer."""
    return features if bias.numel() else unit(features)


def relogits(features: Tensor, weight: Tensor, bias: Tensor, gain: Tensor | None = None) -> Tensor:
    """Logits (N, C) of gain * features under a layer as `flat_layer` gives it; features (N, D), gain (N, 1) or None.

    The gain goes behind the product, where it is cheap. Of its size a cosine layer must see nothing, not even the
    rounding: features that differ by their gain alone then have equal scores, which no runtime can tear apart.
    """
    if gain is None:
        return F.linear(layer_input(features, bias), weight, bias if bias.numel() else None)
    if bias.numel():
        return gain * F.linear(features, weight) + bias
    return gain.sign() * F.linear(unit(features), weight)


class RelogitsOptions(ScoreOptions):
    """Which score reads the new logits, and its temperature."""

    base: Literal["energy", "msp", "max_logit"] = option("energy", "The score that reads the new logits.")
    temperature: float = option(
        1.0, "The base's T, above 0, in units of the logits.", read_if={"base": ("energy", "msp")}, gt=0
    )


def base_score(logits: Tensor, options: RelogitsOptions) -> Tensor:
    """ood_score (N,) of logits (N, C) by the base that the options name."""
    if options.base == "max_logit":
        return max_logit(logits)
    return (energy if options.base == "energy" else msp)(logits, options.temperature)


class RelogitsScore(Score):
    """A score that computes the logits anew; buffers `weight` (C, D) and `bias` hold its layer once it is fitted."""

    needs: ClassVar[tuple[Need, ...]] = ("features", "weights")
    reads_length: ClassVar[bool] = True
    Options: ClassVar[type[Record]] = RelogitsOptions
    weight: Tensor
    bias: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weight", torch.zeros(0, 0))
        self.register_buffer("bias", torch.zeros(0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None:
            raise ModelError(
                f"score {self.name!r} needs the weights of a last linear or cosine layer; use 'knn' or 'mahalanobis'"
            )
        self.weight, self.bias = flat_layer(last_layer)

    def rescored(self, features: Tensor, gain: Tensor | None = None) -> Tensor:
        """The base's ood_score (N,) of gain * features, (N, D), under the layer in the buffers."""
        return base_score(relogits(features, self.weight, self.bias, gain), self.options)
