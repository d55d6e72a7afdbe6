"""Images without an object: a flat colour with noise of a random power law, from nearly uniform to full contrast.

    field = F^-1[ gaussian / f^a ],  a ~ U(0, 3);  std ~ log-uniform(1, 64);  mean colour uniform in [0, 255]^channels

Classifiers call simple images in-distribution, because nothing in training was simpler than an object.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser


def power_law_fields(shape: tuple[int, int, int, int], slope: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian fields (K, c, H, W) of amplitude 1 / f^slope (K,), each with mean 0 and standard deviation 1."""
    device = slope.device
    white = torch.randn(shape, generator=generator, device=device)
    height, width = shape[-2:]
    down = torch.fft.fftfreq(height, device=device)[:, None]
    across = torch.fft.rfftfreq(width, device=device)[None, :]
    frequency = (down.square() + across.square()).sqrt()
    frequency[0, 0] = 1  # the mean, taken off below
    falling = frequency.log()[None, None] * -slope[:, None, None, None]
    field = torch.fft.irfft2(torch.fft.rfft2(white) * falling.exp(), s=(height, width))
    field = field - field.mean((-2, -1), keepdim=True)
    unit: Tensor = field / field.std((-2, -1), keepdim=True).clamp_min(1e-12)
    return unit


@register_synthesiser
class SmoothNoise(ImageSynthesiser):
    """A flat colour with noise of a random power law: simple images, which are not in-distribution either."""

    name: ClassVar[str] = "smooth_noise"

    class Options(Record):
        steepest: float = option(3.0, "Largest exponent of the power law; 0 is white noise.", common=True, ge=0, le=10)
        contrast: float = option(64.0, "Largest standard deviation, in grey levels.", common=True, ge=1)

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        _, height, width, channels = batch.images.shape
        device, o = batch.images.device, self.options

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=device)

        slope = uniform(self.count) * o.steepest
        field = power_law_fields((self.count, channels, height, width), slope, generator)
        common = power_law_fields((self.count, 1, height, width), slope, generator)
        grey = uniform(self.count, 1, 1, 1)  # how far the channels move together
        field = grey * common + (1 - grey.square()).sqrt() * field
        contrast = torch.exp(uniform(self.count, 1, 1, 1) * torch.log(torch.tensor(o.contrast)))
        colour = uniform(self.count, channels, 1, 1) * 255
        made = (colour + contrast * field).round().clamp(0, 255).to(torch.uint8)
        return Outliers(made.permute(0, 2, 3, 1).contiguous(), "flat colours and power-law noise")
