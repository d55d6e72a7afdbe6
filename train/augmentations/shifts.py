"""Steps that move images: padded crops, mirroring, random parts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..engine.augment import augment, usual_shift
from ..engine.resized_crop import resized_crop
from .base import AugmentContext, Step, register_step


@register_step
class Crop(Step):
    """See `augment`."""

    name = "crop"
    summary = "Shifted by up to an eighth of the side, at most 4 pixels; black comes in."

    def __init__(self, context: AugmentContext, *, flip: bool = False) -> None:
        super().__init__(context)
        self.flip = flip

    def joined(self, after: Step) -> Step | None:
        return Crop(self.context, flip=True) if isinstance(after, Flip) and not self.flip else None

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return augment(images, generator, pad=usual_shift(images.shape[1]), flip=self.flip)


@register_step
class Flip(Step):
    """See `augment`."""

    name = "flip"
    summary = "Half of the images mirrored."

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return augment(images, generator, pad=0, flip=True)


@register_step
class ResizedCrop(Step):
    """See `resized_crop`."""

    name = "resized_crop"
    summary = "A random part, 8 % to all of the area, enlarged; half of the images mirrored."
    source: ClassVar[str] = "Szegedy et al., CVPR 2015"

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return resized_crop(images, generator)
