"""The convolutional trunk that encoder and discriminator share in form (not in weights), and the two."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.divided import divided
from .style import START, widths


class Down(nn.Module):
    """Half the resolution: a strided 4 x 4 convolution, then a residual 3 x 3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(inputs, outputs, 4, 2, 1)
        self.conv = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.halve(F.leaky_relu(x, 0.2))
        out: Tensor = x + self.conv(F.leaky_relu(x, 0.2))
        return out


class Trunk(nn.Module):
    """Images (N, channels, size, size) in [-1, 1] -> one map per resolution, from `size` down to 4."""

    def __init__(self, size: int, width: int, channels: int) -> None:
        super().__init__()
        falling = list(reversed(widths(size, width).values()))
        self.first = nn.Conv2d(channels, falling[0], 3, 1, 1)
        self.downs = nn.ModuleList(Down(a, b) for a, b in pairwise(falling))
        self.num_features = falling[-1] * START**2

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.first(x.contiguous(memory_format=torch.channels_last))]
        for down in self.downs:
            maps.append(down(maps[-1]))
        return maps


class Encoder(nn.Module):
    """Images (N, channels, size, size) -> w (N, L, d), a style of its own for every layer of the generator (W+)."""

    def __init__(self, size: int, width: int, latent: int, channels: int, num_styles: int) -> None:
        super().__init__()
        self.trunk = Trunk(size, width, channels)
        self.to_styles = nn.Linear(self.trunk.num_features, num_styles * latent)
        nn.init.normal_(self.to_styles.weight, std=0.1 / math.sqrt(self.trunk.num_features))  # images start in range
        self.shape = (num_styles, latent)

    def forward(self, x: Tensor) -> Tensor:
        top = F.leaky_relu(self.trunk(x)[-1], 0.2).flatten(1)
        w: Tensor = self.to_styles(top).float().unflatten(1, self.shape)
        return w


class Discriminator(nn.Module):
    """Images and classes -> logits (N,), > 0 = real; conditional by projection (Miyato & Koyama, ICLR 2018).

    logit = v . h + e_y . h / sqrt(dim h),  h the features of the 4 x 4 map and of its spread over the batch.
    """

    def __init__(self, size: int, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = Trunk(size, width, channels)
        self.hidden = nn.Linear(self.trunk.num_features + 1, 4 * width)
        self.out = nn.Linear(4 * width, 1)
        self.classes = nn.Embedding(num_classes, 4 * width)

    def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (N,) and the trunk's maps, which a perceptual loss compares."""
        maps = list(divided(lambda rows: tuple(self.trunk(rows)), x))  # the spread is that of the whole batch
        top = F.leaky_relu(maps[-1], 0.2).flatten(1)
        h = F.leaky_relu(self.hidden(torch.cat([top, spread(top)], 1)), 0.2)
        by_class = (h * self.classes(labels)).sum(-1) / math.sqrt(h.shape[1])
        return (self.out(h).squeeze(-1) + by_class).float(), maps


def spread(features: Tensor) -> Tensor:
    """(N, 1): the mean standard deviation of the features over the batch, the same for all (against mode collapse)."""
    mean = (features - features.mean(0)).square().mean(0).add(1e-8).sqrt().mean()
    return mean.expand(len(features), 1)
