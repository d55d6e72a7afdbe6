"""The default pair: mapping, style-based generator and W+ encoder in one module, for images of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .style import START, Mapping, Synthesis
from .trunk import Encoder

LARGEST = 64  # the resolution "None" goes up to


def resolution(height: int, width: int, asked: int | None = None) -> int:
    """The generator's side: `asked`, or the smallest power of two that covers the image, from 8 to 64."""
    if asked is not None:
        return asked
    size = 2 * START
    while size < min(max(height, width), LARGEST):
        size *= 2
    return size


class StylePair(nn.Module):
    """Images (N, H, W, channels) <-> w (N, L, d); see `train.generators.latent_pair.base.SamplingPair`.

    Args:
        size: the generator's resolution, a power of two; images of another size are resized (bicubic, antialiased).
        width, latent: see `PairOptions`.
    """

    def __init__(
        self, size: int, width: int, latent: int, num_classes: int, image_height: int, image_width: int, channels: int
    ) -> None:
        super().__init__()
        self.size, self.latent, self.image_size = size, latent, (image_height, image_width)
        self.synthesis = Synthesis(size, width, latent, channels)
        self.num_styles = self.synthesis.num_styles
        self.mapping = Mapping(latent, num_classes)
        self.encoder = Encoder(size, width, latent, channels, self.num_styles)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        w: Tensor = self.encoder(self.to_signal(images))
        return w

    @torch.no_grad()
    def generate(self, w: Tensor) -> Tensor:
        return self.to_pixels(self.synthesis(w))

    @torch.no_grad()
    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(labels), self.latent, generator=generator, device=labels.device)
        return self.broadcast(self.mapping(z, labels))

    def broadcast(self, w: Tensor) -> Tensor:
        """(N, d) -> (N, L, d), the same style for every layer."""
        return w[:, None].expand(-1, self.num_styles, -1)

    def to_signal(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W, channels) -> [-1, 1], (N, channels, size, size)."""
        x = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return x if x.shape[2:] == (self.size, self.size) else _resized(x, (self.size, self.size)).clamp(-1, 1)

    def to_pixels(self, signal: Tensor) -> Tensor:
        """The inverse of `to_signal`, rounded."""
        x = signal if signal.shape[2:] == self.image_size else _resized(signal, self.image_size)
        return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
