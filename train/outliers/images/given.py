"""Outlier images that the user gives, in a new order every epoch (outlier exposure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import torch

from ...engine.loader import Feed
from ..base import IDBatch, Outliers, Synthesiser

if TYPE_CHECKING:
    from guard.data import ImageData


class Given(Synthesiser):
    """`count` images per step, each once before any comes again; uint8 (K, H, W, channels)."""

    space: ClassVar = "image"

    def __init__(self, data: ImageData, count: int) -> None:
        super().__init__()
        self.feed = Feed(data)
        self.count = count
        self._batches: Iterator[IDBatch] = iter(())

    def pool(self) -> ImageData:
        return self.feed.data

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        needed, orders = steps * self.count, []
        while needed > 0:
            order = torch.randperm(len(self.feed), generator=generator, device=generator.device)[:needed]
            orders.append(order)
            needed -= len(order)
        self._batches = self.feed.batches(torch.cat(orders), self.count, generator.device)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        drawn = next(self._batches)
        return Outliers(drawn.images, "given", rows=drawn.rows)
