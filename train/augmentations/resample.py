"""Images shrunk and enlarged again by random kernels, so that none gives away how it was resized before.

The kernel by which an image came to its size leaves traces that a network sees: where outliers were generated at
another size, they alone tell outliers from in-distribution images. NCIS (Doorenbos et al., preprint 2024) draws one of
two kernels for each generated image; here images and outliers alike go through one. The kernels are Pillow's,
antialiased; both passes of both directions are matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Step, register_step
from .choices import choose

LARGEST_FACTOR = 2.0
BICUBIC = -0.5  # Pillow's


def bilinear(distance: Tensor) -> Tensor:
    """A triangle, of distances in pixels of the coarser grid."""
    return (1 - distance.abs()).clamp_min(0)


def bicubic(distance: Tensor) -> Tensor:
    """The cubic convolution of Keys (1981)."""
    x, a = distance.abs(), BICUBIC
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


KERNELS = ("nearest", "box", "bilinear", "bicubic")


def matrices(kernel: str, before: Tensor, after: Tensor, side: int) -> Tensor:
    """What turns lines of `before` (B,) pixels into lines of `after` (B,): float (B, side, side), zero beyond them."""
    device = before.device
    before, after = before.view(-1, 1, 1), after.view(-1, 1, 1)
    place, source = torch.arange(side, device=device)[:, None], torch.arange(side, device=device)
    # from middle to middle in pixels, times 2 `after`: whole numbers, so that no rounding decides what a box holds
    apart = (2 * source + 1) * after - (2 * place + 1) * before
    coarser = torch.maximum(before, after)  # antialiased where it shrinks
    if kernel in ("nearest", "box"):  # the pixel that the middle lies in, or the mean of the area
        half = after if kernel == "nearest" else coarser
        weights = ((apart > -half) & (apart <= half)).float()
    else:
        weights = (bilinear if kernel == "bilinear" else bicubic)(apart / (2 * coarser))
    weights = weights * ((place < after) & (source < before))
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)


def passed(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """float (B, C, H, W), whole numbers in [0, 255], by a matrix for columns and one for rows; rounded after each."""
    images = _rounded(images @ across[:, None].mT)
    return _rounded(down[:, None] @ images)


def _rounded(images: Tensor) -> Tensor:
    return (images + (0.5 + 1e-3)).floor_().clamp_(0, 255)  # halves go up, also where float32 is a little below


def resized_and_back(images: Tensor, factor: Tensor, generator: torch.Generator) -> Tensor:
    """float (B, C, H, W), each shrunk by its `factor` (B,) and enlarged, by a kernel drawn for each way."""
    sizes = images.shape[-2:]
    small = [(size / factor).round().long().clamp_min(1) for size in sizes]
    full = [torch.full_like(s, size) for s, size in zip(small, sizes, strict=True)]
    for before, after in ((full, small), (small, full)):
        choice = choose(len(images), len(KERNELS), generator)
        made = []
        for axis, size in enumerate(sizes):
            of_kernel = [
                matrices(k, before[axis][rows], after[axis][rows], size)
                for k, rows in zip(KERNELS, choice.members, strict=True)
            ]
            made.append(torch.cat(of_kernel).index_select(0, choice.places))
        images = passed(images, *made)
    return images


@register_step
class Resample(Step):
    """Half of the images, shrunk by a factor uniform in [1, 2] and enlarged again (`resized_and_back`)."""

    name = "resample"
    summary = "Half of the images shrunk by a random factor, at most 2, and enlarged again, by random kernels."
    source = "after Doorenbos et al. (NCIS), preprint 2024"
    elaborate = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        choice = choose(len(images), 2, generator)
        taken, others = (images.index_select(0, rows) for rows in choice.members)
        u = torch.rand(len(taken), generator=generator, device=images.device)
        planes = taken.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        made = resized_and_back(planes, 1 + (LARGEST_FACTOR - 1) * u, generator)
        made = made.to(torch.uint8).permute(0, 2, 3, 1)
        return torch.cat([made, others]).index_select(0, choice.places)
