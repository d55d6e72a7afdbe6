"""Cutout. Source: DeVries & Taylor, arXiv 1708.04552, 2017."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import AugmentContext, Step, register_step


def squares(n: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """bool (N, H, W), one square hole each, of half the shorter side (16 of 32 pixels).

    Its middle is any pixel of the image, alike likely, so that a part of it may lie outside.
    """
    device, half = generator.device, min(height, width) // 4
    middle = [torch.randint(0, size, (n, 1), generator=generator, device=device) for size in (height, width)]
    rows, columns = (
        (at - half <= place) & (place < at + half)
        for at, place in zip(middle, (torch.arange(s, device=device) for s in (height, width)), strict=True)
    )
    return rows[:, :, None] & columns[:, None, :]


@register_step
class Cutout(Step):
    """x is the data's mean colour in one square, and itself elsewhere.

    The official code cuts the normalised image and sets 0, which is that colour.
    """

    name = "cutout"
    summary = "One square hole of half the side, anywhere, in the data's mean colour."
    source = "DeVries & Taylor 2017"
    elaborate = True

    def __init__(self, context: AugmentContext) -> None:
        super().__init__(context)
        self.fill = torch.tensor([round(m) for m in context.mean], dtype=torch.uint8, device=context.device)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        n, height, width, _ = images.shape
        hole = squares(n, height, width, generator)
        return torch.where(hole[..., None], self.fill, images)
