"""The patches of an image in another order: local statistics stay, the object goes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser


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


@register_synthesiser
class PatchShuffle(ImageSynthesiser):
    """Images of the batch with their patches shuffled: local statistics stay, the object goes."""

    name: ClassVar[str] = "patch_shuffle"

    class Options(Record):
        grid: int = option(4, "Patches per side.", common=True, ge=2)

    def check(self, context: PrepareContext) -> None:
        p, grid = context.data.preprocess, self.options.grid
        if grid > min(p.height, p.width):
            raise ConfigError(
                f"synthesiser 'patch_shuffle' cannot cut {p.height} x {p.width} pixels into {grid} x {grid} patches; "
                f"give grid= at most {min(p.height, p.width)}"
            )

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        n, grid = len(batch.images), self.options.grid
        pick = torch.rand(self.count, generator=generator, device=batch.images.device).mul_(n).long().clamp_max_(n - 1)
        images = shuffle_patches(batch.images[pick], grid, generator)
        parents = batch.labels[pick][:, None]
        return Outliers(images, f"patches shuffled on a {grid} x {grid} grid", parents=parents)
