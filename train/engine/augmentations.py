"""The values of ``augment=``: what in-distribution images, and outliers with them, go through in training.

    none            as they are
    crop            shifted by up to an eighth of their side         `augment`, batched
    crop+flip       and mirrored
    resized_crop    a random part of them, enlarged, and mirrored    RandomResizedCrop of Szegedy et al. 2015, batched
    randaugment     crop+flip, then RandAugment                      Cubuk et al. 2020, torchvision's
    autoaugment     crop+flip, then AutoAugment's policy             Cubuk et al. 2019, torchvision's
    augmix          crop+flip, then AugMix                           Hendrycks et al. 2020, torchvision's

The last three work image by image on the host, and draw from a seed of their own for each batch, so that a run of one
seed is one run.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .augment import augment, usual_shift

AREA = 0.08, 1.0  # share of the image that is taken
RATIO = 3 / 4, 4 / 3  # of its sides


def augmented(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """uint8 (N, H, W, C) as `how`, a `guard.requests.Augmentation`, says; the same tensor for "none"."""
    if how == "none" or not len(images):
        return images
    if how == "resized_crop":
        return resized_crop(images, generator)
    shifted = augment(images, generator, pad=usual_shift(images.shape[1]), flip=how != "crop")
    return shifted if how in ("crop", "crop+flip") else by_torchvision(shifted, how, generator)


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


def by_torchvision(images: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """RandAugment, AutoAugment or AugMix of each image, at torchvision's defaults."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    transform = _transform(how)
    with torch.random.fork_rng(devices=[]):  # it draws from the global generator
        torch.manual_seed(seed)
        made = [transform(image) for image in images.permute(0, 3, 1, 2).cpu()]
    return torch.stack(made).permute(0, 2, 3, 1).contiguous().to(images.device)


@functools.cache
def _transform(how: str) -> Any:
    from torchvision.transforms import v2  # a second to import

    kinds = {"randaugment": v2.RandAugment, "autoaugment": v2.AutoAugment, "augmix": v2.AugMix}
    return kinds[how]()
