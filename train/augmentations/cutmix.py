"""CutMix: a box of another image of the batch, and its label by the box's share. Source: Yun et al., ICCV 2019.

One box for a batch: of height H sqrt(1 - l) and width W sqrt(1 - l), l ~ Beta(1, 1), around any pixel, cut to the
image. The label's weight is the share of the image that is still its own, counted in pixels: 1 - area / (H W).

    L = weight * L(y) + (1 - weight) * L(y of the other)

A batch is mixed with probability 1/2 up to 64 pixels and always above, as the official commands have it for CIFAR and
for ImageNet.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Mixed, Mixing, register_step

SMALL_SIDE = 64  # pixels


def box(height: int, width: int, generator: torch.Generator) -> Tensor:
    """bool (H, W): whether a pixel comes from another image."""
    device = generator.device
    side = torch.rand((), generator=generator, device=device).sqrt()  # of 1 - l, as uniform as l
    inside = []
    for size in (height, width):
        half = (size * side).floor().div(2).floor()
        middle = torch.randint(size, (), generator=generator, device=device)
        place = torch.arange(size, device=device)
        inside.append((place >= middle - half) & (place < middle + half))
    return inside[0][:, None] & inside[1]


@register_step
class CutMix(Mixing):
    """See the module."""

    name = "cutmix"
    summary = "A box of another image, and its label by the box's share; in half of the batches, in all above 64 px."
    source = "Yun et al., ICCV 2019"
    elaborate = True

    def mixed(self, images: Tensor, generator: torch.Generator) -> Mixed:
        n, height, width, _ = images.shape
        device = images.device
        taken = box(height, width, generator)
        if max(height, width) <= SMALL_SIDE:
            taken = taken & (torch.rand((), generator=generator, device=device) < 0.5)
        partner = torch.randperm(n, generator=generator, device=device)
        made = torch.where(taken[:, :, None], images.index_select(0, partner), images)
        return Mixed(made, partner, (~taken).float().mean())
