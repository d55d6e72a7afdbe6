"""The patches of an image in another order: local statistics stay, the object goes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ...method import IDBatch, Outliers, Synthesiser


def shuffle_patches(images: Tensor, grid: int, generator: torch.Generator) -> Tensor:
    """Each image (N, H, W, channels) with its grid x grid patches permuted, its own permutation each.

    Where the sides do not divide, the rows and columns beyond the last whole patch stay in place.
    """
    n, height, width, channels = images.shape
    rows, columns = height // grid, width // grid
    inner = images[:, : rows * grid, : columns * grid]
    patches = inner.reshape(n, grid, rows, grid, columns, channels).permute(0, 1, 3, 2, 4, 5)
    patches = patches.reshape(n, grid * grid, rows, columns, channels)
    order = torch.rand(n, grid * grid, generator=generator, device=images.device).argsort(-1)
    patches = patches[torch.arange(n, device=images.device)[:, None], order]
    shuffled = patches.reshape(n, grid, grid, rows, columns, channels).permute(0, 1, 3, 2, 4, 5)
    out = images.clone()
    out[:, : rows * grid, : columns * grid] = shuffled.reshape(inner.shape)
    return out


class PatchShuffle(Synthesiser):
    """`count` images of the batch per step with their patches shuffled, on a 4 x 4 grid."""

    space: ClassVar = "image"

    def __init__(self, count: int, grid: int = 4) -> None:
        super().__init__()
        self.count = count
        self.grid = grid

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        n = len(batch.images)
        pick = torch.rand(self.count, generator=generator, device=batch.images.device).mul_(n).long().clamp_max_(n - 1)
        images = shuffle_patches(batch.images[pick], self.grid, generator)
        return Outliers(images, f"patches shuffled on a {self.grid} x {self.grid} grid")
