"""Drawings: a few curved strokes of one colour on a flat ground, as letters, digits and sketches are.

Each stroke is a quadratic Bezier curve; a pixel's ink is 1 within half the stroke's width of it, with an edge one pixel
wide. Ground and ink are two colours, grey in half of the images.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser

POINTS = 12  # per curve; straight lines between them


def distance_to_polyline(points: Tensor, height: int, width: int) -> Tensor:
    """Distances (K, H, W) of pixel centres to polylines (K, P, 2) of (row, column), in pixels."""
    rows = torch.arange(height, device=points.device, dtype=points.dtype)
    columns = torch.arange(width, device=points.device, dtype=points.dtype)
    nearest = points.new_full((len(points), height, width), torch.inf)
    for start, end in zip(points[:, :-1].unbind(1), points[:, 1:].unbind(1), strict=True):
        along = end - start
        length = along.square().sum(-1).clamp_min(1e-12)[:, None, None]
        y = rows[None, :, None] - start[:, 0, None, None]
        x = columns[None, None, :] - start[:, 1, None, None]
        share = ((y * along[:, 0, None, None] + x * along[:, 1, None, None]) / length).clamp(0, 1)
        squared = (y - share * along[:, 0, None, None]).square() + (x - share * along[:, 1, None, None]).square()
        nearest = torch.minimum(nearest, squared)
    return nearest.sqrt()


@register_synthesiser
class Strokes(ImageSynthesiser):
    """A few curved strokes of one colour on a flat ground, as letters, digits and sketches are."""

    name: ClassVar[str] = "strokes"

    class Options(Record):
        strokes: int = option(4, "The most strokes per image.", common=True, ge=1)
        thickest: float = option(
            0.15, "Width of the thickest stroke, as a share of the image's side.", common=True, gt=0, le=1
        )

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        _, height, width, channels = batch.images.shape
        device, o, count = batch.images.device, self.options, self.count

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        side = torch.tensor([height, width], device=device, dtype=torch.float32)
        thickness = 0.5 + uniform(count, 1, 1) * (o.thickest * side.min() / 2)
        drawn = (uniform(count) * o.strokes).long() + 1
        ink = torch.zeros(count, height, width, device=device)
        t = torch.linspace(0, 1, POINTS, device=device)[None, :, None]
        for stroke in range(o.strokes):
            a, b, c = ((uniform(count, 1, 2) * 1.1 - 0.05) * side for _ in range(3))
            curve = (1 - t).square() * a + 2 * t * (1 - t) * b + t.square() * c
            cover = (thickness + 0.5 - distance_to_polyline(curve, height, width)).clamp(0, 1)
            ink = torch.maximum(ink, cover * (stroke < drawn)[:, None, None])
        colours = uniform(count, 2, channels) * 255
        grey = uniform(count, 1, 1) < 0.5
        colours = torch.where(grey, colours[..., :1], colours)
        ground, pen = colours[:, 0, None, None, :], colours[:, 1, None, None, :]
        made = (ground + ink[..., None] * (pen - ground)).round().to(torch.uint8)
        return Outliers(made, f"up to {o.strokes} strokes on a flat ground")
