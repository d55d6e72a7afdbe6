"""Julia sets of z -> z^2 + c, coloured by escape time.

c lies a little outside the main cardioid of the Mandelbrot set or of its largest disc, where the sets are richest.
Source: Mandelbrot, The Fractal Geometry of Nature, 1982.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .colours import grid, palettes, uniform

STEPS = 40
ESCAPED = 64.0  # of |z|^2: far enough for a smooth count


def julia_sets(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """float (B, 3, h, w) in [0, 1]."""
    angle = uniform((count, 1, 1), 0, 2 * math.pi, generator)
    out = uniform((count, 1, 1), 1.0, 1.12, generator)
    disc = torch.rand(count, 1, 1, generator=generator) < 0.25
    real = torch.where(disc, 0.25 * out * angle.cos() - 1, out * (angle.cos() / 2 - (2 * angle).cos() / 4))
    imaginary = torch.where(disc, 0.25 * out * angle.sin(), out * (angle.sin() / 2 - (2 * angle).sin() / 4))
    x, y = grid(count, height, width, uniform((count,), 0.25, 1.5, generator), generator)
    x, y = (t + uniform((count, 1, 1), -0.5, 0.5, generator) for t in (x, y))
    escaped_at, nearest = torch.full_like(x, STEPS), torch.full_like(x, 4.0)
    for step in range(STEPS):
        x, y = x * x - y * y + real, 2 * x * y + imaginary
        square = x * x + y * y
        nearest = torch.minimum(nearest, square)
        smooth = step + 1 - (square.clamp_min(ESCAPED).log() / math.log(ESCAPED)).log2()
        escaped_at = torch.where((square > ESCAPED) & (escaped_at == STEPS), smooth, escaped_at)
        x, y = x.clamp(-1e3, 1e3), y.clamp(-1e3, 1e3)
    inside = escaped_at == STEPS
    turns = uniform((count, 1, 1), 0.3, 1.5, generator)
    outside = palettes(count, generator)(turns * (1 + escaped_at.clamp_min(0)).log2())
    trapped = palettes(count, generator)(turns * nearest.sqrt())
    return torch.where(inside[:, None], trapped, outside)
