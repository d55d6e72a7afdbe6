"""Images turned by 90, 180 or 270 degrees (CSI, Tack et al., NeurIPS 2020, takes such images for outliers).

Every statistic that has no direction stays exactly as it is, but for the border of a second crop
(docs/augmentations.md), so little else can be learned from them; but where in-distribution images may be turned
(textures, cells, aerial views) they are in-distribution: do not use it there.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser


@register_synthesiser
class Rotation(ImageSynthesiser):
    """Images turned by 90, 180 or 270 degrees; for data that has an up."""

    name: ClassVar[str] = "rotation"
    source: ClassVar[str] = "CSI, Tack et al., NeurIPS 2020"

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        n, height, width = batch.images.shape[:3]
        device = batch.images.device
        pick = torch.rand(self.count, generator=generator, device=device).mul_(n).long().clamp_max_(n - 1)
        images = batch.images[pick]
        half = images.flip(1, 2)
        if height != width:  # only half a turn keeps the shape
            return Outliers(half, "turned upside down", parents=batch.labels[pick][:, None])
        quarter = images.transpose(1, 2).flip(1)
        turn = (torch.rand(self.count, generator=generator, device=device) * 3)[:, None, None, None]
        made = torch.where(turn < 1, quarter, torch.where(turn < 2, half, quarter.flip(1, 2)))
        return Outliers(made.contiguous(), "turned by 90, 180 or 270 degrees", parents=batch.labels[pick][:, None])
