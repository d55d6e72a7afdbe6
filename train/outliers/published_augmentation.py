"""The augmentation of outliers in the official code of KIRBY and DMR, as batched operations.

    mirror                          probability 1/2
    enlarge by 1.0 .. 1.5           about the centre, nearest pixel: the default of torchvision's RandomAffine
    stretch each channel to 0..255  probability 0.2   (autocontrast)
    invert                          probability 0.2
    a patch of a quarter side       probability 1/2: blown up to the whole image or tiled over it, half and half

The patch shows background: with a mask (KIRBY's key region) it is the first one, in steps of half a patch, that lies
outside the mask, else the one with most background; without a mask it is a random one. (DMR's code takes the image
itself for the mask, by mistake.) It is drawn anew whenever an outlier is visited (`AugmentedAnew`); a store that
augments its images does so once. Only outliers are augmented there, so a head can learn the augmentation: by default
they are not.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Changed, IDBatch, Outliers

SCALE = (1.0, 1.5)


def augment_outliers(images: Tensor, generator: torch.Generator, masks: Tensor | None = None) -> Tensor:
    """uint8 (K, H, W, channels) -> the same; `masks` bool (K, H, W), True where the object was."""
    device, k = images.device, len(images)

    def chance(p: float) -> Tensor:
        return (torch.rand(k, generator=generator, device=device) < p).view(-1, 1, 1, 1)

    x = images.permute(0, 3, 1, 2).float()
    x = torch.where(chance(0.5), patches_spread(x, generator, masks), x)
    x = torch.where(chance(0.5), x.flip(3), x)
    x = enlarged(x, torch.empty(k, device=device).uniform_(*SCALE, generator=generator))
    x = torch.where(chance(0.2), autocontrast(x), x)
    x = torch.where(chance(0.2), 255 - x, x)
    return x.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def enlarged(x: Tensor, scale: Tensor) -> Tensor:
    """Images (K, channels, H, W) enlarged about their centre by scale (K,) >= 1; nothing comes in.

    Each pixel is the nearest one of the source, so that an enlarged image is as sharp as the image: bilinear ones are
    softer, and a head learns the softness.
    """
    rows, columns = (_sources(side, scale) for side in x.shape[2:])
    index = (rows[:, :, None] * x.shape[3] + columns[:, None, :]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view(x.shape)


def _sources(side: int, scale: Tensor) -> Tensor:
    """What the i-th row or column of an enlarged image shows: floor((i + 1/2 - side/2) / scale + side/2), (K, side)."""
    centre = side / 2
    places = torch.arange(side, device=scale.device, dtype=torch.float64) + 0.5 - centre
    return (places / scale.double()[:, None] + centre).floor().long().clamp(0, side - 1)


def autocontrast(x: Tensor) -> Tensor:
    """Each channel's smallest value becomes 0 and its largest 255; flat channels stay."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * 255 / (high - low).clamp_min(1e-6), x)


def patches_spread(x: Tensor, generator: torch.Generator, masks: Tensor | None = None) -> Tensor:
    """A background patch of each image blown up to the whole image or tiled over it; float (K, channels, H, W)."""
    k, channels, height, width = x.shape
    side = max(1, min(height, width) // 4)
    top, left = patch_corners(k, height, width, side, x.device, generator, masks)
    offset = torch.arange(side, device=x.device)
    rows, columns = top[:, None] + offset, left[:, None] + offset  # (K, side)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
    patch = x.flatten(2).gather(2, index).view(k, channels, side, side)
    blown = F.interpolate(patch, (height, width), mode="bilinear", align_corners=False)
    tiled = patch.repeat(1, 1, -(-height // side), -(-width // side))[:, :, :height, :width]
    tile = torch.rand(k, generator=generator, device=x.device) < 0.5
    return torch.where(tile.view(-1, 1, 1, 1), tiled, blown)


def patch_corners(
    k: int,
    height: int,
    width: int,
    side: int,
    device: torch.device,
    generator: torch.Generator,
    masks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Top and left (k,) of the patch that is shown; see the top of this file."""
    step = max(1, side // 2)
    if masks is None:
        draws = torch.rand(2, k, generator=generator, device=device)
        return (draws[0] * (height - side + 1)).long(), (draws[1] * (width - side + 1)).long()
    covered = F.avg_pool2d(masks.float()[:, None], side, step)  # share of each patch that is object
    first = covered.flatten(1).argmin(1)  # the first of the smallest
    columns = covered.shape[3]
    return first // columns * step, first % columns * step


class AugmentedAnew(Changed):
    """Another synthesiser's outliers, augmented anew in every step (`augment_outliers`)."""

    def change(self, made: Outliers, batch: IDBatch, generator: torch.Generator) -> Outliers:
        return made._replace(data=augment_outliers(made.data, generator), origin=f"{made.origin}, augmented")
