"""Images bent out of shape: each pixel is taken from a place that a smooth random field says.

    x~(u) = x(u + a d(u)),   d a smooth field of deviation 1 in each direction, a ~ U(least, most) half sides

Colours, textures and sharpness are an in-distribution image's, and so is what surrounds the object; its shape is none
that was learned. Ours; elastic deformations as small as those of Simard et al. (ICDAR 2003) keep the class, these do
not.
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch.nn import functional as F

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser
from .fields import smooth_fields


@register_synthesiser
class Warp(ImageSynthesiser):
    """Images bent by a smooth random field until their shapes are none that were learned."""

    name: ClassVar[str] = "warp"

    class Options(Record):
        least: float = option(
            0.15, "Least standard deviation of the shift, as a share of half the side.", common=True, gt=0
        )
        most: float = option(0.4, "Largest one; below 0.1 objects keep their class.", common=True, gt=0, le=2)
        coarse: int = option(4, "Numbers per side of the coarsest field.", ge=2, le=32)
        fine: int = option(7, "Numbers per side of the finest field.", ge=2, le=32)

        @model_validator(mode="after")
        def _ordered(self) -> Self:
            for low, high in (("least", "most"), ("coarse", "fine")):
                a, b = getattr(self, low), getattr(self, high)
                if a > b:
                    raise ValueError(f"{low} must be at most {high}, got {a} and {b}; swap the two")
            return self

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        o, images = self.options, batch.images
        n, height, width, _ = images.shape
        device, count = images.device, self.count
        u = torch.rand(3, count, generator=generator, device=device)
        pick = (u[0] * n).long().clamp_max_(n - 1)
        cells = o.coarse + (u[1] * (o.fine - o.coarse + 1)).long().clamp_max_(o.fine - o.coarse)
        shift = [smooth_fields(cells, height, width, o.fine, generator) for _ in range(2)]
        rows = torch.arange(height, device=device).mul(2).add(1).div(height).sub(1)  # pixel centres in [-1, 1]
        columns = torch.arange(width, device=device).mul(2).add(1).div(width).sub(1)
        far = (o.least + (o.most - o.least) * u[2])[:, None, None, None]
        at = torch.stack(torch.broadcast_tensors(columns[None, None, :], rows[None, :, None]), -1)
        at = at + far * torch.stack(shift, -1)
        taken = images[pick].permute(0, 3, 1, 2).float()
        bent = F.grid_sample(taken, at, mode="bilinear", padding_mode="reflection", align_corners=False)
        made = bent.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        return Outliers(made, "images bent by a smooth field", parents=batch.labels[pick][:, None])
