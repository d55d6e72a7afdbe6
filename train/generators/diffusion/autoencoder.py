"""A small AutoencoderKL of the user's own images, for diffusion in its latents (Rombach et al., CVPR 2022).

    L = mean |x^ - x| + 1e-6 KL(q(z | x) || N(0, I)) per pixel;   z = (mean of q - m) / s

m and s, one per channel, are measured on training images, so that latents have about unit variance. Sides are halved
until the longer one has at most 32 positions, at least once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from guard.data import ImageData
from guard.record import Record

from ...cache.trained_network import Schedule, train_kept
from ...engine.divided import average_gradients, divided
from ...engine.loader import Feed
from ...engine.precision import mixed_precision
from ...engine.seeds import seeded
from ...outliers.base import IDBatch, Learner, PrepareContext

LONGEST = 32  # positions per side of a latent
CHANNELS = 4
WIDTH = 32
GROUPS = 8
KL_WEIGHT = 1e-6
LR = 1e-3
MEASURED = 512  # images, for m and s


class AutoencoderCard(Record):
    """What decides its form."""

    channels: int
    halvings: int


def halvings(height: int, width: int) -> int:
    """How often the sides of images are halved."""
    return max(1, (-(-max(height, width) // LONGEST) - 1).bit_length())


class Autoencoder(Learner):
    """Signals (N, channels, H, W) in [-1, 1] <-> latents (N, 4, H / 2^k, W / 2^k); sides are multiples of 2^k."""

    mean: Tensor
    std: Tensor

    def __init__(self, card: AutoencoderCard) -> None:
        super().__init__()
        depth = card.halvings + 1
        net: Any = AutoencoderKL(
            in_channels=card.channels,
            out_channels=card.channels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=tuple(min(WIDTH * 2**i, 4 * WIDTH) for i in range(depth)),
            latent_channels=CHANNELS,
            norm_num_groups=GROUPS,
        )
        self.net = net.to(memory_format=torch.channels_last)
        self.shrinks = 2**card.halvings
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, CHANNELS, 1, 1))
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if not self._optimizers:
            self._optimizers = {"autoencoder": torch.optim.Adam(self.net.parameters(), lr=LR)}
        return self._optimizers

    def encode(self, signal: Tensor) -> Tensor:
        """Latents of about zero mean and unit variance, float32."""
        mode: Tensor = self.net.encode(signal).latent_dist.mode().float()
        return (mode - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """The signal, not clipped, float32."""
        decoded: Tensor = self.net.decode(latents * self.std + self.mean, return_dict=False)[0].float()
        return decoded

    def loss(self, signal: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The two terms."""
        n, _, height, width = signal.shape
        shape = (n, CHANNELS, height // self.shrinks, width // self.shrinks)
        noise = torch.randn(shape, generator=generator, device=signal.device)
        pixels, divergence = divided(self._errors, signal, noise)
        return {"pixels": pixels.mean(), "kl": KL_WEIGHT * divergence.mean()}

    def _errors(self, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Both of each image, (N,), with latents drawn by `noise` (N, 4, h, w)."""
        posterior = self.net.encode(signal).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        decoded = self.net.decode(mean + std * noise, return_dict=False)[0].float()
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1) / signal[0].numel()
        return (decoded - signal).abs().flatten(1).mean(1), divergence

    @torch.no_grad()
    def measure(self, signals: Iterable[Tensor]) -> None:
        """Set m and s by the latents of these images, given in batches."""
        latents = torch.cat([self.net.encode(signal).latent_dist.mode().float() for signal in signals])
        self.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
        self.std.copy_(latents.std((0, 2, 3), keepdim=True).clamp_min(1e-3))


def to_signal(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels (N, channels, H, W) in [0, 255] -> [-1, 1], edges repeated up to `height` x `width`."""
    x = pixels.float() / 127.5 - 1
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]), mode="replicate")


def trained_autoencoder(
    context: PrepareContext, card: AutoencoderCard, size: tuple[int, int], schedule: Schedule
) -> Autoencoder:
    """One trained on the context's images, filled up to `size`; kept in its folder, and resumed from there."""
    with seeded(context.seed):
        autoencoder = Autoencoder(card)
    autoencoder.to(context.device)
    autocast = mixed_precision(context.device)

    def update(batch: IDBatch, generator: torch.Generator) -> dict[str, Tensor]:
        with autocast():
            terms = autoencoder.loss(to_signal(batch.images.permute(0, 3, 1, 2), *size), generator)
        optimizer = autoencoder.optimizers()["autoencoder"]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        average_gradients(autoencoder.parameters())
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        return terms

    train_kept(context, autoencoder, update, "autoencoder", card, schedule)
    autoencoder.measure(_some(context.data, size, context.device))
    return autoencoder


def _some(data: ImageData, size: tuple[int, int], device: torch.device) -> Iterator[Tensor]:
    rows = torch.linspace(0, len(data) - 1, min(MEASURED, len(data))).long()
    for batch in Feed(data).batches(rows, 32, device):
        yield to_signal(batch.images.permute(0, 3, 1, 2), *size)
