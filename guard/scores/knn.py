"""Distance to the k-th nearest training feature. Source: Sun et al., ICML 2022.

    ood_score = |z - z_(k)|^2,   z = h / |h|  (or h itself),   z_(k) the k-th nearest to z in the bank

The search is exact (`guard/scores/nearest`): in the graph one matrix product and a TopK, in torch whatever is fastest
on the machine. Banks above 500,000 rows are searched by an inverted file (`banked.py`). The distance is taken from the
difference of the two vectors, so it agrees with float64 to float32's relative precision, but where rounding picks
another of two neighbours that are equally far to about 1e-6.

The bank holds every training feature up to `max_bank`; beyond it a uniform sample, or greedy k-centres. Query images
must not be in the bank (a training image finds itself).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer, unit
from ..record import option
from .banked import BankScore, How, probes_option, search_option
from .base import Need, ScoreOptions, register_score, unfitted
from .k_centre import k_centre
from .nearest import Nearest
from .reservoir import Reservoir

POOL = 4  # k-centres are chosen from a uniform sample this many times as large


@register_score
class KNN(BankScore):
    """ood_score = squared distance to the k-th neighbour; on the unit sphere in [0, 4]."""

    name: ClassVar[str] = "knn"
    equation: ClassVar[str] = "|z - z_(k)|^2, z = h / |h|"
    source: ClassVar[str] = "Sun et al., ICML 2022"
    needs: ClassVar[tuple[Need, ...]] = ("features",)
    needs_fit: ClassVar[bool] = True
    centre: Tensor
    offsets: Tensor

    class Options(ScoreOptions):
        k: int = option(
            50, "Which nearest training feature, counted from 1; TensorRT takes at most 3840.", common=True, ge=1
        )
        normalise: bool = option(True, "Put features on the unit sphere, as published, or leave them as they are.")
        max_bank: int | None = option(
            50_000, "Most training features that are kept; None keeps every one.", common=True, ge=1
        )
        select: Literal["reservoir", "k_centre"] = option(
            "reservoir",
            "Which are kept of more: reservoir a uniform sample, k_centre one that covers rare regions too, at a cost "
            "that grows with max_bank squared (5,000 of 512 numbers: 14 s on one core).",
        )
        seed: int = option(0, "Seed of that choice.")
        search: How = search_option()
        probes: int = probes_option()

        @model_validator(mode="after")
        def _bank_holds_k(self) -> Self:
            if self.max_bank is not None and self.max_bank < self.k:
                raise ValueError(f"max_bank must be at least k={self.k}, got {self.max_bank}")
            if self.max_bank is None and self.select == "k_centre":
                raise ValueError("select='k_centre' chooses max_bank rows, got max_bank=None; give a number")
            if self.max_bank is None and self.seed:
                raise ValueError(f"seed={self.seed} is not read with max_bank=None; drop it, or give a number of rows")
            return self

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("bank", torch.zeros(0, 0))
        if not self.options.normalise:  # else the rows are unit vectors, and the bank is all there is
            self.register_buffer("centre", torch.zeros(0))
            self.register_buffer("offsets", torch.zeros(0))
        self._nearest = Nearest()

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        size = self.options.max_bank
        if size is not None and self.options.select == "k_centre":
            size *= POOL
        self._reservoir = Reservoir(size, self.options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        rows = features.detach().float()
        self._reservoir.add(unit(rows) if self.options.normalise else rows)

    def finish(self) -> None:
        options, rows = self.options, self._reservoir.rows()
        del self._reservoir
        if len(rows) < options.k:
            raise DataError(f"score 'knn' with k={options.k} needs as many training images, got {len(rows)}; lower k")
        if options.select == "k_centre" and len(rows) > options.max_bank:
            rows = rows[k_centre(rows, options.max_bank, options.seed)]
        with torch.inference_mode(False):  # a bank whose changes torch counts, whatever mode it was gathered in
            if not options.normalise:
                self.centre = rows.mean(0)
                rows = rows - self.centre
                self.offsets = rows.square().sum(-1) / -2
            owned = rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()
            self.bank = rows if owned and not rows.is_inference() else rows.clone()
            self.index(options.k)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.bank.numel():
            raise unfitted(self)
        if self.options.normalise:
            place, offsets = unit(features), None
        else:  # around the bank's centre the same distances, and less to cancel in the search
            place, offsets = features - self.centre, self.offsets
        lists, k = self.lists, self.options.k
        if lists is None:
            neighbour = self._nearest.kth(place, self.bank, offsets, k)
        else:
            neighbour = self.closest(place, offsets, k, lists)[1][:, -1]
        return (place - self.bank.index_select(0, neighbour)).square().sum(-1)
