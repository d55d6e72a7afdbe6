"""Palettes and noise, a random one for each picture of a batch. Letters: B pictures of h x w pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Palette = Callable[[Tensor], Tensor]


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform draws between two numbers."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def palettes(count: int, generator: torch.Generator) -> Palette:
    """For each picture a map from t (B, h, w) to colours (B, 3, h, w) in [0, 1].

    Each channel is middle + swing cos(2 pi (turns t + phase)): smooth, and of period 1 where turns is 1.
    """
    middle = uniform((count, 3, 1, 1), 0.35, 0.65, generator)
    swing = uniform((count, 3, 1, 1), 0.2, 0.5, generator)
    turns = torch.randint(1, 4, (count, 3, 1, 1), generator=generator) * 0.5
    phase = torch.rand(count, 3, 1, 1, generator=generator)

    def coloured(t: Tensor) -> Tensor:
        return (middle + swing * torch.cos(2 * math.pi * (turns * t[:, None] + phase))).clamp(0, 1)

    return coloured


def noise(count: int, height: int, width: int, power: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise (B, h, w) of mean 0 and deviation 1 whose amplitude falls as frequency^-power, power (B,)."""
    white = torch.fft.rfft2(torch.randn(count, height, width, generator=generator))
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = white * frequency.pow(-power[:, None, None])
    spectrum[:, 0, 0] = 0
    made: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
    made /= made.std((1, 2), keepdim=True).clamp_min(1e-6)
    return made


def grid(count: int, height: int, width: int, zoom: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x and y (B, h, w) of each picture's pixels, turned at random: the shorter side spans -zoom .. zoom, zoom (B,)."""
    shorter = min(height, width)
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5 - height / 2) * (2 / shorter),
        (torch.arange(width) + 0.5 - width / 2) * (2 / shorter),
        indexing="ij",
    )
    angle = uniform((count, 1, 1), 0, 2 * math.pi, generator)
    cos, sin, zoom = angle.cos(), angle.sin(), zoom[:, None, None]
    return zoom * (cos * x - sin * y), zoom * (sin * x + cos * y)
