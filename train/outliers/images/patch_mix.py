"""A mosaic of patches from k images of different classes, each at its own place: sharp, coloured and composed as
in-distribution images are, but of no one class."""

from __future__ import annotations

from typing import ClassVar

import torch

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser
from .pixel_average import pick_different_classes


@register_synthesiser
class PatchMix(ImageSynthesiser):
    """A mosaic of patches from k images of different classes, each patch at its own place."""

    name: ClassVar[str] = "patch_mix"

    class Options(Record):
        k: int = option(
            4,
            "Images per mosaic, each of a class of its own; where there are fewer, all classes once.",
            common=True,
            ge=2,
        )
        grid: int = option(2, "Patches per side.", common=True, ge=2)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        o = self.options
        index, valid = pick_different_classes(batch.labels, self.num_classes, self.count, o.k, generator)
        present = valid.sum(-1, keepdim=True)
        height, width = batch.images.shape[1:3]
        # a random order of the images over the patches, so that each is used about equally often
        order = torch.rand(self.count, o.grid * o.grid, generator=generator, device=index.device).argsort(-1)
        source = index.gather(1, order % present).reshape(self.count, o.grid, o.grid)
        rows = torch.arange(height, device=index.device) * o.grid // height
        columns = torch.arange(width, device=index.device) * o.grid // width
        pixels = source[:, rows][:, :, columns]  # (K, H, W): which image each pixel comes from
        down = torch.arange(height, device=index.device)[:, None]
        across = torch.arange(width, device=index.device)[None, :]
        parents = torch.where(valid, batch.labels[index], -1)
        return Outliers(batch.images[pixels, down, across], f"mosaics of {o.k} classes", parents=parents)
