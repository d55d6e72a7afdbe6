"""Shuffled pixels and uniform noise, low-pass filtered, without an object (CEDA, Hein et al., CVPR 2019).

    z = stretch(Gaussian filter of std U(1, 2.5) of [permuted pixels of a training image | uniform noise])

Half of either kind. The filter is 15 x 15, and repeats the border; each image is stretched to fill [0, 255].
"""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.record import Record, option

from ..base import IDBatch, ImageSynthesiser, Outliers, register_synthesiser

RADIUS = 7  # of the filter: 15 outputs


def permute_pixels(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, H, W, channels) with its pixels in an order of its own; channels stay together."""
    n, height, width, channels = images.shape
    order = torch.rand(n, height * width, generator=generator, device=images.device).argsort(-1)
    flat = images.reshape(n, height * width, channels)
    return flat.gather(1, order[:, :, None].expand(-1, -1, channels)).view(images.shape)


def gaussian_filters(std: Tensor, side: int) -> Tensor:
    """Matrices (N, side, side) that filter a column with a Gaussian of std (N,), 15 outputs, the border repeated."""
    outputs = torch.arange(-RADIUS, RADIUS + 1, device=std.device)
    weights = (-0.5 * (outputs / std[:, None]).square()).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    reached = (torch.arange(side, device=std.device)[:, None] + outputs).clamp(0, side - 1)  # (side, 15)
    # by a product and not by scatter-adding, whose order of additions is not fixed on every device
    chosen = (reached[:, :, None] == torch.arange(side, device=std.device)).to(weights.dtype)
    return torch.einsum("nt,its->nis", weights, chosen)


def low_pass(images: Tensor, std: Tensor) -> Tensor:
    """Images (N, H, W, channels), each filtered by a Gaussian of its std (N,) in pixels; float32."""
    down, across = (gaussian_filters(std, side) for side in images.shape[1:3])
    return torch.einsum("nih,nhwc,njw->nijc", down, images.float(), across)


def stretch(images: Tensor) -> Tensor:
    """Each image (N, H, W, channels), all its channels alike, stretched to [0, 255]; flat ones become 0."""
    flat = images.flatten(1)
    low, high = flat.amin(-1), flat.amax(-1)
    scale = 255 / (high - low).clamp_min(1e-6)
    return (images - low.view(-1, 1, 1, 1)) * scale.view(-1, 1, 1, 1)


class LowPassOptions(Record):
    """The published range."""

    least: float = option(1.0, "Least standard deviation of the filter, in pixels.", common=True, gt=0)
    most: float = option(2.5, "Largest standard deviation of the filter, in pixels.", common=True, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least must be at most most, got {self.least} and {self.most}; swap the two")
        return self


@register_synthesiser
class LowPassNoise(ImageSynthesiser):
    """Shuffled pixels of training images and uniform noise, low-pass filtered: half and half, at full contrast."""

    name: ClassVar[str] = "low_pass_noise"
    source: ClassVar[str] = "CEDA and ACET, Hein et al., CVPR 2019"
    Options: ClassVar[type[Record]] = LowPassOptions

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        images, o = batch.images, self.options
        device, permuted = images.device, self.count // 2
        pick = torch.rand(permuted, generator=generator, device=device).mul_(len(images)).long()
        pick = pick.clamp_max_(len(images) - 1)
        shuffled = permute_pixels(images[pick], generator).float()
        shape = (self.count - permuted, *images.shape[1:])
        uniform = torch.rand(shape, generator=generator, device=device) * 255
        std = o.least + (o.most - o.least) * torch.rand(self.count, generator=generator, device=device)
        noise = stretch(low_pass(torch.cat([shuffled, uniform]), std)).round_().clamp_(0, 255).to(torch.uint8)
        parents = torch.cat([batch.labels[pick], batch.labels.new_full((len(uniform),), -1)])
        return Outliers(noise, "low-pass filtered noise", parents=parents[:, None])
