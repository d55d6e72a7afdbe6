"""Pictures that the program draws: fractals, waves and noise in random colours (`train.augmentations.pictures`).

Structure of every scale and contrast, sharp and soft, and no class: what PixMix mixes in, here as outliers. A function
of the seed and the images' size alone, drawn when training begins. Ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ...augmentations.pictures import cut, drawn_pictures, picture_sides
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser


@register_synthesiser
class Drawn(ImageSynthesiser):
    """Fractals, waves and noise in random colours, drawn by program."""

    name: ClassVar[str] = "drawn"

    class Options(Record):
        pictures: int | None = option(
            None, "How many are drawn; default up to 2,000. Each use shows a random part of one, mirrored or not.", ge=1
        )

    def __init__(self, count: int, num_classes: int, **options: object) -> None:
        super().__init__(count, num_classes, **options)
        self._drawn: dict[tuple[torch.Size, torch.device], Tensor] = {}
        self._seed = 0

    def prepare(self, context: PrepareContext) -> None:
        self._seed = context.seed
        self._drawn.clear()

    def release(self) -> None:
        self._drawn.clear()

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        height, width = batch.images.shape[1:3]
        pictures = self._pictures(batch.images)
        which = torch.randint(len(pictures), (self.count,), generator=generator, device=pictures.device)
        mirrored = torch.rand(2, self.count, 1, 1, 1, generator=generator, device=pictures.device) < 0.5
        made = cut(pictures, which, height, width, generator)
        for dim, flips in zip((2, 3), mirrored, strict=True):
            made = torch.where(flips, made.flip(dim), made)
        return Outliers(made.permute(0, 2, 3, 1).contiguous(), "drawn fractals, waves and noise")

    def _pictures(self, images: Tensor) -> Tensor:
        """For images of this size, on their device, where they stay: a copy in each step would wait for it."""
        key = images.shape[1:], images.device
        if key not in self._drawn:
            height, width, channels = images.shape[1:]
            drawn = drawn_pictures(*picture_sides(height, width), channels, self._seed, self.options.pictures)
            self._drawn[key] = drawn.to(images.device)
        return self._drawn[key]
