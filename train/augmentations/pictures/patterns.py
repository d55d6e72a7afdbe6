"""Patterns without objects: waves that interfere and are warped, and noise of a power-law spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .colours import grid, noise, palettes, uniform

MOST_WAVES = 5


def waves(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """float (B, 3, h, w) in [0, 1]: 1 .. 5 plane waves, even around the circle, on a plane that noise warps."""
    x, y = grid(count, height, width, torch.ones(count), generator)
    strength = uniform((count, 1, 1), 0, 0.5, generator).square() * 2
    power = uniform((count,), 1.3, 2.2, generator)
    x, y = (t + strength * noise(count, height, width, power, generator) for t in (x, y))
    total = torch.randint(1, MOST_WAVES + 1, (count, 1, 1), generator=generator)
    frequency = uniform((count, 1, 1), 1, 2 + min(height, width) / 16, generator)
    value = torch.zeros_like(x)
    for i in range(MOST_WAVES):
        angle = math.pi * i / total
        phase = uniform((count, 1, 1), 0, 2 * math.pi, generator)
        wave = torch.cos(2 * math.pi * frequency * (angle.cos() * x + angle.sin() * y) / 2 + phase)
        value = value + torch.where(i < total, wave, 0)
    sharp = uniform((count, 1, 1), 0.5, 4, generator)
    return palettes(count, generator)(0.5 * torch.tanh(sharp * value))


def noises(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """float (B, 3, h, w) in [0, 1]: three mixtures of three fields, of spectra from f^-0.5 to f^-2."""
    power = uniform((count,), 0.5, 2, generator)
    fields = torch.stack([noise(count, height, width, power, generator) for _ in range(3)], 1)
    mixing = torch.randn(count, 3, 3, generator=generator) / math.sqrt(3)
    channels = torch.einsum("bij,bjhw->bihw", mixing, fields)
    return (
        0.5
        + uniform((count, 1, 1, 1), 0.15, 0.35, generator) * channels
        + uniform((count, 3, 1, 1), -0.2, 0.2, generator)
    )
