"""The two stacks of strided convolutions that DCGAN and the conditional VAE are made of, and pixels as signals.

    down   image (N, channels, S, S) -> map (N, widths[0], 4, 4)      Radford, Metz & Chintala, ICLR 2016
    up     map (N, widths[0], 4, 4) -> image (N, channels, S, S) in [0, 1]

S is the smallest power of two that covers the images, from 8 to 64; images of another size are resized on the way in
and on the way out.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

START = 4  # pixels per side of the smallest map
SMALLEST, LARGEST = 8, 64


def working_size(height: int, width: int) -> int:
    """S for images of `height` x `width` pixels."""
    size = SMALLEST
    while size < min(max(height, width), LARGEST):
        size *= 2
    return size


def widths(size: int, width: int) -> list[int]:
    """Channels of the maps from 4 x 4 up to size / 2: `width` at the largest, doubled at each halving."""
    steps = (size // START).bit_length() - 1
    return [width * 2**i for i in reversed(range(steps))]


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Images (N, channels, ., .) at another size, bilinear and antialiased; themselves where it is theirs."""
    if x.shape[-2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def up(size: int, width: int, channels: int, *, running: bool = True) -> nn.Sequential:
    """Map (N, widths[0], 4, 4) -> image (N, channels, size, size) in [0, 1].

    `running`: whether batch norm keeps running statistics for eval mode; without, it takes the batch's in both modes.
    """
    hidden = widths(size, width)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(hidden):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(outputs, track_running_stats=running), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(hidden[-1], channels, 4, 2, 1), nn.Sigmoid())


def down(size: int, width: int, channels: int) -> nn.Sequential:
    """Image (N, channels, size, size) -> map (N, widths[0], 4, 4); the first layer is without batch norm."""
    hidden = widths(size, width)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(channels, hidden[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for inputs, outputs in itertools.pairwise(hidden):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers)


def to_signal(images: Tensor) -> Tensor:
    """uint8 (N, H, W, channels) -> float32 (N, channels, H, W) in [0, 1]."""
    return images.permute(0, 3, 1, 2).float() / 255


def to_pixels(signal: Tensor) -> Tensor:
    """float (N, channels, H, W) in [0, 1] -> uint8 (N, H, W, channels), rounded."""
    return (signal * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
