"""Pictures with structure and no class, drawn by program: fractals, waves and noise in random colours.

In place of the mixing set of PixMix (fractals that people made, and feature visualisations, 1.6 GB): a pure function
of a seed and a size, so that a training that was killed has the same.

flames     attractors of iterated function systems, played as a chaos game
julia      Julia sets, by escape time
patterns   interfering and warped waves; noise of a power-law spectrum
colours    what they have in common: palettes, and noise
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .flames import flames
from .julia import julia_sets
from .patterns import noises, waves

SHARES = {flames: 0.4, julia_sets: 0.3, waves: 0.2, noises: 0.1}
MOST, FEWEST = 2000, 256  # pictures
BYTES = 2**26  # that they may take, where that leaves the fewest
FINER = 2  # they are drawn at so many times the size, and shrunk
DRAWN_SIDE = 144  # pixels, at most; larger ones are enlarged from it
PIXELS = 2**18  # drawn at once


def picture_sides(height: int, width: int) -> tuple[int, int]:
    """Of pictures for images of that size: an eighth more, 36 for 32 pixels, so that each shows another part anew."""
    return height + -(-height // 8), width + -(-width // 8)


def how_many(height: int, width: int) -> int:
    """Pictures of that size in a training: 2,000, or fewer of large ones."""
    return max(FEWEST, min(MOST, BYTES // (3 * height * width)))


def drawn_pictures(height: int, width: int, channels: int, seed: int, count: int | None = None) -> Tensor:
    """uint8 (M, H, W, channels) on the CPU, all kinds shuffled; grey ones where channels is 1.

    The last ones are kept, because stages, PixMix and the outliers `drawn` show the same: not to be changed in place.
    """
    return _kept(height, width, channels, seed, how_many(height, width) if count is None else count)


@functools.lru_cache(maxsize=1)
def _kept(height: int, width: int, channels: int, seed: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = min(FINER, DRAWN_SIDE / max(height, width))
    size = max(2, round(height * scale)), max(2, round(width * scale))
    at_once = max(1, PIXELS // (size[0] * size[1]))
    shares = [math.ceil(share * count) for share in SHARES.values()]
    made = []
    for draw, share in zip(SHARES, shares, strict=True):
        for begin in range(0, share, at_once):
            made.append(_finished(draw(min(at_once, share - begin), *size, generator), height, width, channels))
    return torch.cat(made)[torch.randperm(sum(shares), generator=generator)[:count]]


def _finished(pictures: Tensor, height: int, width: int, channels: int) -> Tensor:
    """uint8 (B, H, W, channels) of float (B, 3, h, w) in [0, 1]."""
    pictures = F.interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=True)
    if channels == 1:
        pictures = pictures.mean(1, keepdim=True)
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def cut(pictures: Tensor, which: Tensor, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random parts (N, channels, height, width) of the pictures (M, H, W, channels) that `which` (N,) names."""
    parts = pictures.unfold(1, height, 1).unfold(2, width, 1)  # (M, places down, places across, channels, h, w)
    down, across = (
        torch.randint(places, (len(which),), generator=generator, device=pictures.device) for places in parts.shape[1:3]
    )
    return parts[which, down, across]
