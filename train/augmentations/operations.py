"""The thirteen operations that PixMix varies images with, as batched tensor operations. Pillow's results, by design.

Images are float (B, C, H, W) with whole numbers in [0, 255]; `u` is uniform (2, B): the first row is the strength, the
second the sign. Strength: a level uniform between 0.1 and 3 of 10, as the official code has it at severity 3: turned by
up to 9 degrees, not 30. Source: AugMix, Hendrycks et al., ICLR 2020; PixMix, CVPR 2022.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .choices import choose

SEVERITY = 3.0
LEAST = 0.1  # levels


def varied(images: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """The images of these rows (B,), each through one of the operations drawn at random; float (B, C, H, W)."""
    choice = choose(len(rows), len(GEOMETRIC) + len(TONAL), generator)
    m = choice.members.shape[1]
    u = torch.rand(2, choice.members.numel(), generator=generator, device=generator.device)
    x = images.index_select(0, rows[choice.members.flatten()])
    moved = len(GEOMETRIC) * m
    maps = [op(part, *x.shape[-2:]) for op, part in zip(GEOMETRIC, u[:, :moved].split(m, 1), strict=True)]
    x[:moved] = warped(x[:moved], torch.cat(maps))
    for op, part, strength in zip(TONAL, x[moved:].split(m), u[:, moved:].split(m, 1), strict=True):
        part.copy_(op(part, strength))  # in place: new memory costs more than the copy
    return x.index_select(0, choice.places)


def _level(u: Tensor, most: float) -> Tensor:
    return (LEAST + (SEVERITY - LEAST) * u[0]) * (most / 10)


def _signed(value: Tensor, u: Tensor) -> Tensor:
    return torch.where(u[1] > 0.5, -value, value)


def _maps(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    return torch.stack([a, b, c, d, e, f], -1).view(-1, 2, 3)


def warped(images: Tensor, maps: Tensor) -> Tensor:
    """Images (B, C, H, W) with maps (B, 2, 3) from pixel to pixel, output to input; bilinear, black around them."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    m = maps[:, :, :, None, None]
    across, down = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(2))
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    grid = torch.stack([across * (2 / width) - 1, down * (2 / height) - 1], -1)
    taken = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return (taken + 1e-3).floor_().mul_(inside[:, None])  # Pillow cuts; float32 may lie a little below a whole number


# ------------------------------------------------------------------ maps (B, 2, 3) of images of `height` x `width`


def rotate(u: Tensor, height: int, width: int) -> Tensor:
    """Turned about the middle by up to 9 whole degrees."""
    angle = _signed(_level(u, 30).floor(), u) * (math.pi / 180)
    cos, sin = angle.cos(), -angle.sin()
    x, y = width / 2, height / 2
    return _maps(cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def shear_x(u: Tensor, height: int, width: int) -> Tensor:
    """Rows shifted by up to 0.09 of their number."""
    shear, zero = _signed(_level(u, 0.3), u), torch.zeros_like(u[0])
    return _maps(zero + 1, shear, zero, zero, zero + 1, zero)


def shear_y(u: Tensor, height: int, width: int) -> Tensor:
    """Columns shifted by up to 0.09 of their number."""
    shear, zero = _signed(_level(u, 0.3), u), torch.zeros_like(u[0])
    return _maps(zero + 1, zero, zero, shear, zero + 1, zero)


def translate_x(u: Tensor, height: int, width: int) -> Tensor:
    """Shifted across by up to a tenth of the width, in whole pixels."""
    shift, zero = _signed(_level(u, width / 3).floor(), u), torch.zeros_like(u[0])
    return _maps(zero + 1, zero, shift, zero, zero + 1, zero)


def translate_y(u: Tensor, height: int, width: int) -> Tensor:
    """Shifted down by up to a tenth of the height, in whole pixels."""
    shift, zero = _signed(_level(u, height / 3).floor(), u), torch.zeros_like(u[0])
    return _maps(zero + 1, zero, zero, zero, zero + 1, shift)


# ------------------------------------------------------------------------------------------------ colours and tones


def autocontrast(x: Tensor, u: Tensor) -> Tensor:
    """Each channel stretched to 0 .. 255."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    scale = 255 / (high - low).clamp_min(1)
    return torch.where(high > low, ((x - low) * scale + 1e-3).floor(), x)


def equalize(x: Tensor, u: Tensor) -> Tensor:
    """Each channel with as many pixels at every level."""
    level = x.flatten(2).long()  # (B, C, H * W)
    histogram = torch.zeros(*level.shape[:2], 256, dtype=torch.int64, device=x.device)
    histogram.scatter_add_(2, level, torch.ones_like(level))
    of_brightest = histogram.gather(2, level.amax(2, keepdim=True))
    step = (level.shape[2] - of_brightest) // 255
    below = histogram.cumsum(2) - histogram
    table = (below + step // 2) // step.clamp_min(1)
    table = torch.where(step > 0, table, torch.arange(256, device=x.device)).clamp_max_(255).to(x.dtype)
    first = 256 * torch.arange(len(table.flatten()) // 256, device=x.device).view(*level.shape[:2], 1)
    return table.flatten().index_select(0, (level + first).flatten()).view(x.shape)  # a third of a gather's time


def posterize(x: Tensor, u: Tensor) -> Tensor:
    """The highest 4 bits of each value, seldom 3."""
    coarse = (_level(u, 4).floor() + 4).exp2()[:, None, None, None]
    return (x / coarse).floor() * coarse


def solarize(x: Tensor, u: Tensor) -> Tensor:
    """Values from 180 to 254 on inverted."""
    threshold = 256 - _level(u, 256).floor()[:, None, None, None]
    return torch.where(x < threshold, x, 255 - x)


def grey(x: Tensor) -> Tensor:
    """The luma (B, 1, H, W), ITU-R 601, in whole numbers; of one channel itself."""
    if x.shape[1] == 1:
        return x
    red, green, blue = x[:, :1], x[:, 1:2], x[:, 2:]
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor()


def _blend(plain: Tensor, x: Tensor, u: Tensor) -> Tensor:
    """From `plain` towards x, by 0.118 to 0.64 of the way."""
    return (plain + (_level(u, 1.8) + 0.1)[:, None, None, None] * (x - plain) + 1e-3).floor()


def colour(x: Tensor, u: Tensor) -> Tensor:
    """Paler; grey images are as they were."""
    return x if x.shape[1] == 1 else _blend(grey(x), x, u)


def contrast(x: Tensor, u: Tensor) -> Tensor:
    """Towards the mean grey."""
    return _blend((grey(x).mean((1, 2, 3), keepdim=True) + 0.5).floor(), x, u)


def brightness(x: Tensor, u: Tensor) -> Tensor:
    """Darker."""
    return _blend(torch.zeros_like(x), x, u)


def sharpness(x: Tensor, u: Tensor) -> Tensor:
    """Towards its 3 x 3 mean with a middle of weight 5; the outermost pixels are as they were."""
    if min(x.shape[-2:]) < 3:
        return x
    box = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    box = box[..., :-2] + box[..., 1:-1] + box[..., 2:]
    smooth = x.clone()
    smooth[:, :, 1:-1, 1:-1] = ((box + 4 * x[:, :, 1:-1, 1:-1]) / 13 + 0.5).floor_()
    return _blend(smooth, x, u)


GEOMETRIC = (rotate, shear_x, shear_y, translate_x, translate_y)
TONAL = (autocontrast, equalize, posterize, solarize, colour, contrast, brightness, sharpness)
