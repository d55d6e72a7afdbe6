"""A small style-based generator. Source: StyleGAN2, Karras et al., CVPR 2020.

    z, class  --mapping-->  w (d)  --broadcast-->  w (L, d)  --synthesis-->  image
    synthesis: a learned 4 x 4 constant, then two modulated convolutions per resolution; images add up over resolutions

Left out, as W+ reconstruction has no use for it: noise inputs (so that w alone decides the image), path-length
regularisation, style mixing. Learning rates are equalised in the optimizer (`train.generators.latent_pair.training`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

START = 4  # pixels per side of the constant


def widths(size: int, width: int) -> dict[int, int]:
    """Resolution -> channels, from 4 up to `size`: `width` at `size`, doubled at each halving up to 4 x."""
    resolutions = [START * 2**i for i in range(int(math.log2(size // START)) + 1)]
    return {r: width * min(4, size // r) for r in resolutions}


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 that keeps the second moment of a unit normal about 1: sqrt 2 lrelu(x)."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose outputs are scaled back to unit variance.

    y_o = d_o sum_i W_oi * (s_i x_i),   s = A w + b (b starts at 1),   d_o = (sum_ikl (s_i W_oikl)^2 + 1e-8)^(-1/2)

    Scaling maps instead of weights is the same sum and needs one convolution for the batch, not one per image.
    For independent inputs of unit variance the outputs have unit variance, whatever the style.
    """

    def __init__(self, inputs: int, outputs: int, latent: int, kernel: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) / math.sqrt(inputs * kernel**2))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = nn.Linear(latent, inputs)
        nn.init.ones_(self.style.bias)
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps (N, inputs, h, w) and styles (N, latent) -> (N, outputs, h, w)."""
        style = self.style(w)
        y = F.conv2d(x * style[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if self.demodulate:
            squares = self.weight.float().square().sum((2, 3))  # (outputs, inputs)
            power = (style.float().square()[:, None, :] * squares).sum(-1)  # float32 even under autocast
            y = y * (power + 1e-8).rsqrt().to(y.dtype)[:, :, None, None]
        return y + self.bias.to(y.dtype)[:, None, None]


class Mapping(nn.Module):
    """Random vectors z (N, d) and classes (N,) -> w (N, d): two layers on the normalised pair of z and an embedding."""

    def __init__(self, latent: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Embedding(num_classes, latent)
        self.layers = nn.Sequential(
            nn.Linear(2 * latent, latent), nn.LeakyReLU(0.2), nn.Linear(latent, latent), nn.LeakyReLU(0.2)
        )
        self.last = nn.Linear(latent, latent)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        w: Tensor = self.last(self.layers(torch.cat([unit_rms(z), unit_rms(self.classes(labels))], -1)))
        return w


def unit_rms(x: Tensor) -> Tensor:
    """Each row scaled to a root mean square of 1."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


class StyleBlock(nn.Module):
    """One resolution: two modulated convolutions, the first enlarging (unless at 4 x 4), and a share of the image."""

    def __init__(self, inputs: int, outputs: int, latent: int, channels: int, upsample: bool) -> None:
        super().__init__()
        self.upsample = upsample
        self.conv1 = ModulatedConv2d(inputs, outputs, latent)
        self.conv2 = ModulatedConv2d(outputs, outputs, latent)
        self.to_image = ModulatedConv2d(outputs, channels, latent, kernel=1, demodulate=False)
        with torch.no_grad():
            self.to_image.weight.mul_(0.2)  # the shares of all resolutions together start within [-1, 1]

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        """w (N, 2, d): one style per convolution; the image reads the second."""
        x = self.conv1(x, w[:, 0])
        x = activate(_double(x) if self.upsample else x)  # convolved before it is enlarged: a quarter of the work
        x = activate(self.conv2(x, w[:, 1]))
        own = self.to_image(x, w[:, 1])
        return x, own if image is None else _double(image) + own


class Synthesis(nn.Module):
    """w (N, L, d) -> images (N, channels, size, size), about [-1, 1]; L = 2 per resolution from 4 to `size`."""

    def __init__(self, size: int, width: int, latent: int, channels: int) -> None:
        super().__init__()
        per = widths(size, width)
        self.constant = nn.Parameter(torch.randn(per[START], START, START))
        before = [per[START], *per.values()]
        self.blocks = nn.ModuleList(
            StyleBlock(before[i], outputs, latent, channels, upsample=i > 0) for i, outputs in enumerate(per.values())
        )
        self.num_styles = 2 * len(per)

    def forward(self, w: Tensor) -> Tensor:
        x = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image: Tensor | None = None
        for i, block in enumerate(self.blocks):
            x, image = block(x, image, w[:, 2 * i : 2 * i + 2])
        assert image is not None  # there is always the first block
        return image


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
