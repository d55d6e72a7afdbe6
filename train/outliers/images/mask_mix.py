"""Images of different classes cut into curved pieces of one another.

    x~(u) = sum_j w_j(u) x_j(u),   w(u) = softmax_j s d_j(u),   d_j smooth fields of standard deviation 1

Each place shows almost one image, so that textures and contrast stay, and pieces meet in soft curved edges where
patch_mix has straight ones. Ours.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser
from .fields import smooth_fields
from .pixel_average import pick_different_classes

COARSE = 3  # numbers per side of the coarsest field


@register_synthesiser
class MaskMix(ImageSynthesiser):
    """Curved pieces of k images of different classes, put together at their own places."""

    name: ClassVar[str] = "mask_mix"

    class Options(Record):
        k: int = option(
            3,
            "Images per mix, each of a class of its own; where there are fewer, all classes once.",
            common=True,
            ge=2,
        )
        sharpness: float = option(4.0, "s: the larger, the harder the edges between pieces.", common=True, gt=0)
        fine: int = option(6, f"Numbers per side of the finest field; the coarsest has {COARSE}.", ge=COARSE, le=32)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        o, count = self.options, self.count
        index, valid = pick_different_classes(batch.labels, self.num_classes, count, o.k, generator)
        height, width = batch.images.shape[1:3]
        device, k = index.device, index.shape[1]
        span = o.fine - COARSE + 1
        cells = COARSE + (torch.rand(count, generator=generator, device=device) * span).long().clamp_max_(span - 1)
        fields = smooth_fields(cells.repeat(k), height, width, o.fine, generator).view(k, count, height, width)
        heights = (o.sharpness * fields).masked_fill_(~valid.T[:, :, None, None], -torch.inf)
        shares = heights.softmax(0)
        mixed = torch.zeros(count, *batch.images.shape[1:], device=device)
        for j in range(k):  # k gathers instead of one of k times the memory
            mixed += batch.images[index[:, j]] * shares[j, :, :, :, None]
        parents = torch.where(valid, batch.labels[index], -1)
        made = mixed.round_().clamp_(0, 255).to(torch.uint8)
        return Outliers(made, f"curved pieces of {o.k} images of different classes", parents=parents)
