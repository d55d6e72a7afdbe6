"""Small stores, and a synthesiser that counts what it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from guard.data import ImageData, load
from train.outliers.base import IDBatch, Outliers, PrepareContext
from train.outliers.images import PatchShuffle
from train.outliers.store.fill import fill
from train.outliers.store.store import Store

CPU = torch.device("cpu")


def images(classes: int = 3, channels: int = 3, count: int = 60, side: int = 8) -> ImageData:
    pixels = np.random.default_rng(7).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    return load((pixels, np.arange(count) % classes), channels=channels)


def shuffler(grid: int = 2, per_draw: int = 16) -> PatchShuffle:
    return PatchShuffle(per_draw, 3, grid=grid)


def small(folder: Path, context: PrepareContext, count: int = 50, **options: Any) -> Store:
    """A store of shards of 20."""
    made = options.pop("synthesiser", None) or shuffler()
    return fill(folder, made, context, count, **{"batch_size": 16, "shard_size": 20, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


class Counting(PatchShuffle):
    """Counts what it is asked for."""

    asked = 0

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        self.asked += 1
        return super().sample(batch, generator)


def held(folder: Path) -> dict[str, bytes]:
    return {**content(folder), "card.json": (folder / "card.json").read_bytes()}
