"""Nearest-neighbour guidance. Source: Park et al., ICCV 2023.

    ood_score = - L(f) * mean of the k largest <L(f_i) z_i, z>,   z = h / |h|,  L = logsumexp

over a bank of training features i, a share `alpha` of them. One pass: how many images will come is not known before the
last one, so a uniform sample of at most `max_bank` is held, and cut uniformly to alpha N images (but at least k) in the
end. Every training image has the same chance of being in the bank, in whatever order they come (OpenOOD takes the first
batches of a shuffled loader). alpha holds up to N = max_bank / alpha, 5 million images by default.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer, unit
from ..record import option
from .banked import BankScore, How, probes_option, search_option
from .base import Need, ScoreOptions, register_score, unfitted
from .reservoir import Reservoir


def guides(features: Tensor, logits: Tensor) -> Tensor:
    """L(f) h / |h|: rows of the bank (N, D) from features (N, D) and logits (N, C)."""
    return unit(features) * logits.logsumexp(-1, keepdim=True)


def nnguide(features: Tensor, logits: Tensor, bank: Tensor, k: int) -> Tensor:
    """- L(f) mean of the k largest <bank_i, h / |h|>; features (N, D), logits (N, C), bank (M, D), k <= M -> (N,)."""
    guidance = (features @ bank.T).topk(k, dim=-1, sorted=False).values.mean(-1)  # |h| > 0 leaves the order as it is
    norm: Tensor = torch.linalg.vector_norm(features, dim=-1)
    return -logits.logsumexp(-1) * (guidance / norm.clamp_min(1e-12))


@register_score
class NNGuide(BankScore):
    """ood_score = - L(f) * mean of the k largest <L(f_i) z_i, z>: the energy, guided by the bank.

    Where the energy L of training images is negative, so are their guides: logits far below zero make the guidance
    meaningless.
    """

    name: ClassVar[str] = "nnguide"
    equation: ClassVar[str] = "- L(f) mean_k max <L(f_i) z_i, z>, L = logsumexp"
    source: ClassVar[str] = "Park et al., ICCV 2023"
    reads_length: ClassVar[bool] = True
    needs: ClassVar[tuple[Need, ...]] = ("logits", "features")
    needs_fit: ClassVar[bool] = True

    class Options(ScoreOptions):
        k: int = option(
            100,
            "How many nearest training images guide, up to the 3840 that TensorRT takes.",
            common=True,
            ge=1,
            le=3840,
        )
        alpha: float = option(
            0.01, "Share of the training images, in (0, 1], that makes up the bank.", common=True, gt=0, le=1
        )
        max_bank: int = option(50_000, "Most training images that are held while it is fitted, at least k.", ge=1)
        seed: int = option(0, "Seed of the choice of the bank.")
        search: How = search_option()
        probes: int = probes_option()

        @model_validator(mode="after")
        def _bank_holds_k(self) -> Self:
            if self.max_bank < self.k:
                raise ValueError(f"max_bank must be at least k={self.k}, got {self.max_bank}")
            return self

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("bank", torch.zeros(0, 0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        self._reservoir = Reservoir(self.options.max_bank, self.options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        self._reservoir.add(guides(features.detach().float(), logits.detach().float()))

    def finish(self) -> None:
        held, seen, k = self._reservoir.rows(), self._reservoir.seen, self.options.k
        if len(held) < k:
            raise DataError(f"score 'nnguide' with k={k} needs as many training images, got {len(held)}; lower k")
        size = min(len(held), max(k, math.ceil(self.options.alpha * seen)))
        chosen = torch.randperm(len(held), generator=torch.Generator().manual_seed(self.options.seed))[:size]
        self.bank = held[chosen.to(held.device)]
        del self._reservoir
        self.index(k)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.bank.numel():
            raise unfitted(self)
        lists, k = self.lists, self.options.k
        if lists is None:
            return nnguide(features, logits, self.bank, k)
        place = unit(features)
        return -logits.logsumexp(-1) * self.closest(place, None, k, lists)[0].mean(-1)
