"""A diffusion model that can be solved by hand: z_0 = M e, and the network says exactly the noise that leads there.

eps_theta(z_t, t, e) = (z_t - alpha_t M e) / sigma_t,    |eps - eps_theta|^2 = (alpha_t / sigma_t)^2 |z - M e|^2 / n
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from train.cache.keyed import model_identity
from train.generators.diffusion import DiffusionOptions, register_diffusion
from train.outliers.base import PrepareContext


class SolvableDiffusion:
    """Latents are images in [-1, 1] themselves; `size` is what it decodes to, which may differ from the data's.

    Attributes:
        calls: rows that have gone through the network.
    """

    times = 100

    def __init__(self, classes: int, size: tuple[int, int], channels: int, width: int = 12, scale: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(3)
        self.width, self.own_size, self.channels, self.calls = width, size, channels, 0
        self.latent_shape = (channels, *size)
        self.matrix = torch.randn(math.prod(self.latent_shape), width, generator=generator) / (scale * width**0.5) / 2
        self.table = scale * torch.randn(classes, width, generator=generator)

    def encode(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.nn.functional.interpolate(pixels, self.own_size)

    def decode(self, latents: Tensor) -> Tensor:
        return ((latents.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def condition(self, classes: Tensor) -> Tensor:
        return classes @ self.table if classes.is_floating_point() else self.table[classes]

    def ratio(self, times: Tensor) -> Tensor:
        """alpha_t / sigma_t."""
        angle = (times + 1) / (self.times + 1) * math.pi / 2
        return angle.cos() / angle.sin()

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        self.calls += len(latents)
        said = noise.flatten(1) + self.ratio(times)[:, None] * (latents.flatten(1) - e @ self.matrix.T)
        return (said - noise.flatten(1)).square().mean(1)

    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(e), *self.latent_shape, generator=generator)
        return (e @ self.matrix.T).view(-1, *self.latent_shape) + 0.05 * noise

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        return self.decode(self.latents(e, classes, generator))


def solvable(context: PrepareContext, options: DiffusionOptions) -> SolvableDiffusion:
    """One that decodes to the size of the context's images."""
    p = context.data.preprocess
    return SolvableDiffusion(len(context.data.class_names), (p.height, p.width), p.channels)


def larger(context: PrepareContext, options: DiffusionOptions) -> SolvableDiffusion:
    """One that decodes to twice that size."""
    p = context.data.preprocess
    return SolvableDiffusion(len(context.data.class_names), (2 * p.height, 2 * p.width), p.channels)


register_diffusion("solvable", solvable)
register_diffusion("solvable-larger", larger)


CLASSES, SIDE = 3, 4


def solvable() -> SolvableDiffusion:
    """Of three classes of grey images, 4 x 4."""
    return SolvableDiffusion(CLASSES, (SIDE, SIDE), 1)


def generators(n: int, first: int = 0) -> list[torch.Generator]:
    """With seeds first, first + 1 ..."""
    return [torch.Generator().manual_seed(first + i) for i in range(n)]


class Cramped(SolvableDiffusion):
    """One that runs out of memory beyond so many rows, on the way there or back; `passes` are those that did not."""

    def __init__(self, limit: int, where: str) -> None:
        super().__init__(CLASSES, (SIDE, SIDE), 1)
        self.identity = model_identity(SolvableDiffusion(CLASSES, (SIDE, SIDE), 1))  # it is the same model
        self.limit, self.where, self.passes = limit, where, list[int]()

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        assert e.requires_grad
        loss = super().noise_loss(latents, e, classes, times=times, noise=noise)
        if len(e) <= self.limit:
            self.passes.append(len(e))
        elif self.where == "there":
            raise torch.OutOfMemoryError
        else:
            e.register_hook(self._full)  # when the gradient is there
        return loss

    def _full(self, _: Tensor) -> None:
        raise torch.OutOfMemoryError
