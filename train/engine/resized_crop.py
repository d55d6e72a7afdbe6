"""A random part of each image, enlarged: batched, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AREA = 0.08, 1.0  # share of the image that is taken
RATIO = 3 / 4, 4 / 3  # of its sides


def resized_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """A part of each image, 8 % to all of its area, of sides 3:4 to 4:3, enlarged to its size; half of them mirrored.

    As torchvision's RandomResizedCrop and RandomHorizontalFlip, but that a part which would not fit is cut to the image
    in place of being drawn again, and that its place is not rounded to pixels.
    """
    n, device = len(images), images.device
    u = torch.rand(5, n, generator=generator, device=device)
    area = AREA[0] + (AREA[1] - AREA[0]) * u[0]
    ratio = torch.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * u[1])
    across, down = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)  # shares of the sides
    x, y = (1 - across) * (2 * u[2] - 1), (1 - down) * (2 * u[3] - 1)  # the middle, in [-1, 1]
    across = torch.where(u[4] < 0.5, -across, across)
    zero = torch.zeros_like(x)
    maps = torch.stack([torch.stack([across, zero, x], -1), torch.stack([zero, down, y], -1)], 1)  # (N, 2, 3)
    pixels = images.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
    taken = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return taken.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
