"""The power spectrum of one image with phases of several: exactly an in-distribution image's sharpness, no object.

    F(x~) = |F(x_1)| exp(i arg F(x_j(f))),   j(f) in {1 .. k} drawn per frequency, the same for all channels

The x_j are of different classes. Amplitudes say how sharp and contrasty an image is, phases where things are.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser
from .pixel_average import pick_different_classes


def mix_phases(images: Tensor, sources: Tensor) -> Tensor:
    """Images (K, k, c, H, W) -> (K, c, H, W): the first one's amplitudes, each frequency's phase of image `sources`.

    sources: int64 (K, H, W // 2 + 1) in 0 .. k - 1. The mean stays the first one's. Where a half spectrum holds both of
    two conjugate frequencies (columns 0 and W / 2), the upper one decides.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    upper = torch.minimum(rows, (height - rows) % height)
    doubled = torch.zeros(width // 2 + 1, dtype=torch.bool, device=images.device)
    doubled[0] = True
    doubled[-1] |= width % 2 == 0
    sources = torch.where(doubled, sources[:, upper], sources)
    spectra = torch.fft.rfft2(images)
    index = sources[:, None, None].expand(-1, 1, spectra.shape[2], -1, -1)
    mixed = torch.polar(spectra[:, 0].abs(), spectra.angle().gather(1, index).squeeze(1))
    mixed[..., 0, 0] = spectra[:, 0, :, 0, 0]
    made: Tensor = torch.fft.irfft2(mixed, s=(height, width))
    return made


@register_synthesiser
class PhaseMix(ImageSynthesiser):
    """One image's power spectrum with the phases of k images of different classes, drawn per frequency."""

    name: ClassVar[str] = "phase_mix"

    class Options(Record):
        k: int = option(
            3,
            "Images of different classes whose phases are mixed; where there are fewer, all classes once.",
            common=True,
            ge=2,
        )

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        index, valid = pick_different_classes(batch.labels, self.num_classes, self.count, self.options.k, generator)
        index = torch.where(valid, index, index[:, :1])
        images = batch.images.permute(0, 3, 1, 2).float()[index]
        height, width = images.shape[-2:]
        draw = torch.rand(self.count, height, width // 2 + 1, generator=generator, device=images.device)
        sources = (draw * index.shape[1]).long().clamp_max_(index.shape[1] - 1)
        made = mix_phases(images, sources).round().clamp(0, 255).to(torch.uint8)
        parents = torch.where(valid, batch.labels[index], -1)
        origin = f"a power spectrum with the phases of {self.options.k} images of different classes"
        return Outliers(made.permute(0, 2, 3, 1).contiguous(), origin, parents=parents)
