"""Gram statistics of intermediate maps, against the range each had in training. Source: Sastry & Oore, ICML 2020.

For a layer's map F (c, S): c channels at S positions (pixels, or tokens), and a power p,

    g_(l,p) = rowsum( F^p (F^p)' )^(1/p)   in R^c,   F^p element by element,   x^(1/p) = sign(x) |x|^(1/p)

    dev_l   = sum_(p, i)  relu(low - g) / (|low| + 1e-6)  +  relu(g - high) / (|high| + 1e-6)

low and high are the extremes of g over the training images of the class that is *predicted* (as in the paper;
pytorch-ood groups by the true label). Row sums before the root are the authors' code, where the paper takes the upper
triangle: c numbers instead of c (c + 1) / 2, and never a c x c matrix, since rowsum(A A') = A (A' 1). Odd powers keep
signs, so that networks without a ReLU before the layer work; the root keeps them too.

    ood_score = sum_l dev_l / E[dev_l] / max_c p_c

E[dev_l] is the mean over a tenth of the training images that the extremes did not see. Which tenth is a seeded coin per
image of the stream, so it depends on the order of the images but not on how they are cut into batches; one pass is
enough because the statistics of at most `max_held_out` of them (a uniform sample) are kept. A class that was never
predicted has the extremes of all images.

Powers are taken of numbers in [-1, 1] (`gram_rows`), so neither overflow nor underflow reaches the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import field_validator
from torch import Tensor

from ..errors import ConfigError, DataError
from ..heads import LastLayer
from ..record import Record, option
from .base import Need, Score, register_score, unfitted
from .layer_statistics import channels_first, given_summary
from .reservoir import Reservoir

_TINY = 1e-30  # stands in for the scale of what is all zeros
_SHARED_SCALE = 5  # up to this power the rows of a map can share one scale


def gram_rows(rows: Tensor, powers: Sequence[int]) -> Tensor:
    """rowsum(F^p F^p')^(1/p) for each power; F (N, c, S) -> (N, c len(powers)), one power's c numbers after another's.

    With w_k = max_j |F_jk|, u = F / w and t_k = sum_j u_jk^p, row i of the sum is sum_k (F_ik w_k)^p t_k. Its scale,
    max w^2, is taken out before and put back by the root, so that only numbers in [-1, 1] are raised to powers. Above
    the 5th power float32 holds less than six decades of them: there each row has its own scale, z_i = max_k |F_ik| w_k,
    at three times the cost.
    """
    position = _largest(rows, 1)
    u = rows / position
    if max(powers) <= _SHARED_SCALE:
        peak = _largest(position, 2)
        scale, q, a = peak.square(), u, (position / peak).square()
    else:
        q, a = rows * position, torch.ones_like(position)
        scale = _largest(q, 2)
        q = q / scale
    u_power, q_power, a_power, found = u, q, a, {}
    for p in range(1, max(powers) + 1):
        if p > 1:
            u_power, a_power = u_power * u, a_power * a
            q_power = u_power if q is u else q_power * q
        if p in powers:
            t = a_power * u_power.sum(1, keepdim=True)
            total = q_power @ t.transpose(1, 2)  # (N, c, 1)
            root = total if p == 1 else total.sign() * total.abs().pow(1 / p)
            found[p] = (root * scale).squeeze(-1)
    return torch.cat([found[p] for p in powers], -1)


def _largest(x: Tensor, dim: int) -> Tensor:
    """max |x| along a dimension, kept; above 0."""
    return torch.maximum(x.amax(dim, keepdim=True), -x.amin(dim, keepdim=True)).clamp_min(_TINY)


def deviation(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How far values (N, K) leave [low, high] (N, K), relative to the bound they leave -> (N, K), >= 0."""
    below, above = (low - values).relu(), (values - high).relu()
    return below / (low.abs() + 1e-6) + above / (high.abs() + 1e-6)


@register_score
class Gram(Score):
    """ood_score = sum_l dev_l / E[dev_l] / max_c p_c >= 0: how far the Gram statistics of the maps leave their range.

    Its `feature_map` is what `summarise` made of its layers, side by side: (N, K).
    """

    name: ClassVar[str] = "gram"
    equation: ClassVar[str] = "sum_l dev_l / E[dev_l] / max_c p_c, dev_l of rowsum(F^p F^p')^(1/p) from its range"
    source: ClassVar[str] = "Sastry & Oore, ICML 2020"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "layer maps")
    needs_fit: ClassVar[bool] = True
    uses_map = True
    low: Tensor
    high: Tensor
    weight: Tensor

    class Options(Record):
        layers: tuple[str, ...] = option(
            (), "Names of the modules whose outputs are read; by default the ends of the stages.", common=True
        )
        powers: tuple[int, ...] = option(
            (1, 2, 3, 4, 5), "Different powers of the Gram matrices, whole numbers from 1 to 10.", common=True
        )
        held_out: float = option(
            0.1,
            "Share of the images, in (0, 1), that the mean deviation is taken over and the range is not.",
            gt=0,
            lt=1,
        )
        max_held_out: int = option(1000, "Most of these images whose statistics are kept.", ge=1)
        seed: int = option(0, "Seed of the choice of these images.")

        @field_validator("powers")
        @classmethod
        def _powers(cls, powers: tuple[int, ...]) -> tuple[int, ...]:
            if not powers or len(set(powers)) < len(powers) or min(powers) < 1 or max(powers) > 10:
                raise ValueError("give different whole numbers from 1 to 10")
            return powers

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("low", "high", "weight"):
            self.register_buffer(name, torch.zeros(0))
        self.layers = self.options.layers
        self._widths: tuple[int, ...] = ()

    def watch(self, layers: Sequence[str], widths: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self.options = self.options.model_copy(update={"layers": self.layers})  # saved with the guard
        self._widths = tuple(widths)

    def summarise(self, layer_map: Tensor) -> Tensor:
        return gram_rows(channels_first(layer_map), self.options.powers)

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        options = self.options
        self._num_classes = num_classes
        self._bounds: tuple[Tensor, Tensor] | None = None
        self._held = Reservoir(options.max_held_out, options.seed)
        self._coin = torch.Generator().manual_seed(options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        rows, predicted = given_summary(feature_map, self.name).detach().float(), logits.argmax(-1)
        if self._bounds is None:
            shape = (self._num_classes, rows.shape[1])
            self._bounds = rows.new_full(shape, torch.inf), rows.new_full(shape, -torch.inf)
        held = (torch.rand(len(rows), generator=self._coin, dtype=torch.float64) < self.options.held_out).to(
            rows.device
        )
        self._held.add(torch.cat([rows, predicted[:, None].float()], -1)[held])
        seen, index = rows[~held], predicted[~held, None].expand(-1, rows.shape[1])
        low, high = self._bounds
        low.scatter_reduce_(0, index, seen, "amin")
        high.scatter_reduce_(0, index, seen, "amax")

    def finish(self) -> None:
        if self._bounds is None or not self._bounds[0].isfinite().any():
            raise DataError("score 'gram' saw no data to fit on")
        (low, high), held = self._bounds, self._held.rows().to(self._bounds[0].device)
        empty = ~low.isfinite().all(-1, keepdim=True)  # classes that were never predicted
        self.low, self.high = torch.where(empty, low.amin(0), low), torch.where(empty, high.amax(0), high)
        widths = list(self._widths) or [low.shape[1]]  # without layers' names, all is one layer
        if sum(widths) != low.shape[1]:
            raise ConfigError(f"score 'gram' watches layers of {sum(widths)} statistics, it was given {low.shape[1]}")
        scale = torch.ones(len(widths), dtype=torch.float64, device=low.device)
        if len(held):
            rows, predicted = held[:, :-1], held[:, -1].long()
            outside = deviation(rows, self.low[predicted], self.high[predicted]).double()
            means = torch.stack([part.sum(-1).mean() for part in outside.split(widths, -1)])
            scale = torch.where(means > 0, means, 1.0)
        repeats = torch.tensor(widths, device=low.device)
        self.weight = scale.reciprocal().repeat_interleave(repeats).float()
        del self._bounds, self._held, self._coin

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.weight.numel():
            raise unfitted(self)
        summary, predicted = given_summary(feature_map, self.name), logits.argmax(-1)
        outside = deviation(summary, self.low[predicted], self.high[predicted]) @ self.weight
        return outside / logits.softmax(-1).amax(-1)
