"""Distance to the k-th nearest training feature. Source: Sun et al., ICML 2022 (methods.md C).

    ood_score = |z - z_(k)|^2 = 2 - 2 s_(k),   z = h / |h|,  s_(k) the k-th largest cosine to the bank

The search is exact: one matrix product and a TopK, so it exports. The bank holds every training feature up to
`max_bank`, beyond it a uniform sample. Query images must not be in the bank (a training image finds itself).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer, unit
from ..manifest import Record
from .base import Need, Score, unfitted
from .reservoir import Reservoir


def kth_distance(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """Squared distance of unit features to their k-th neighbour; features (N, D), bank of unit rows (M, D) -> (N,)."""
    similarity = unit(features) @ bank.T
    return 2 - 2 * similarity.topk(k, dim=-1).values[:, -1]


class KNN(Score):
    """ood_score = squared distance to the k-th neighbour on the unit sphere, in [0, 4] up to rounding (1e-6)."""

    name: ClassVar[str] = "knn"
    equation: ClassVar[str] = "|z - z_(k)|^2, z = h / |h|"
    source: ClassVar[str] = "Sun et al., ICML 2022"
    needs: ClassVar[tuple[Need, ...]] = ("features",)
    needs_fit: ClassVar[bool] = True
    bank: Tensor

    class Options(Record):
        k: int = Field(default=50, ge=1)
        max_bank: int = Field(default=50_000, ge=1)
        seed: int = 0

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
        self._reservoir.add(unit(features.detach().float()))

    def finish(self) -> None:
        bank = self._reservoir.rows()
        if len(bank) < self.options.k:
            raise DataError(
                f"score 'knn' with k={self.options.k} needs as many training images, got {len(bank)}; lower k"
            )
        self.bank = bank.clone()
        del self._reservoir

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.bank.numel():
            raise unfitted(self)
        return kth_distance(features, self.bank, self.options.k)
