"""A "diffusion model" that costs nothing: latents are a fixed linear map of the condition, and a little noise."""

from __future__ import annotations

import torch
from torch import Tensor

from train.generators.diffusion import DiffusionOptions, register_diffusion
from train.outliers.base import PrepareContext

WIDTH, SHAPE = 12, (2, 6, 8)


class ToyDiffusion:
    """`train.generators.diffusion.Diffusion` with a random table of anchors of lengths 1, 2, ..., in the order of the
    classes.

    `asked` lists the conditions and classes of all calls of `latents`.
    """

    width = WIDTH

    def __init__(self, context: PrepareContext, options: DiffusionOptions) -> None:
        p = context.data.preprocess
        self.latent_shape, self.times, self.own_size = SHAPE, 10, (p.height, p.width)
        self.channels = p.channels
        generator = torch.Generator().manual_seed(3)
        classes = len(context.data.class_names)
        table = torch.nn.functional.normalize(torch.randn(classes, self.width, generator=generator), dim=-1)
        self.table = table * torch.arange(1, classes + 1)[:, None]
        self.map = torch.randn(self.width, SHAPE[0] * SHAPE[1] * SHAPE[2], generator=generator)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def encode(self, images: Tensor) -> Tensor:
        """One grey level per image, everywhere."""
        return (images.float().mean((1, 2, 3)) / 255)[:, None, None, None].expand(-1, *SHAPE)

    def decode(self, latents: Tensor) -> Tensor:
        """Grey images of the latents' mean."""
        grey = (255 * latents.mean((1, 2, 3)).sigmoid()).to(torch.uint8)
        return grey[:, None, None, None].expand(-1, *self.own_size, self.channels).contiguous()

    def condition(self, classes: Tensor) -> Tensor:
        """Rows of the table, or weighted sums of them."""
        return self.table[classes] if classes.ndim == 1 else classes @ self.table

    def noise_loss(self, latents: Tensor, e: Tensor, classes: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        """How far the condition's latents are from those given, whatever the noise."""
        return (self._clean(e) - latents).square().mean((1, 2, 3))

    def latents(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """The map of e, a little noise on it."""
        self.asked.append((e, classes))
        clean = self._clean(e)
        return clean + 0.01 * torch.randn(clean.shape, generator=generator)

    def sample(self, e: Tensor, classes: Tensor, generator: torch.Generator) -> Tensor:
        """As the protocol says."""
        return self.decode(self.latents(e, classes, generator))

    def _clean(self, e: Tensor) -> Tensor:
        return (e @ self.map).view(-1, *SHAPE)


register_diffusion("toy", ToyDiffusion)
