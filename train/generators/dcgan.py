"""DCGAN: a small generative adversarial network of the user's images. Source: Radford et al., ICLR 2016.

    D: min  E_x softplus(-D(x)) + E_z softplus(D(G(z)))           D gives logits, > 0 = real
    G: min  E_z softplus(-D(G(z)))                                non-saturating: -log sigmoid D(G(z))
    or      E_z -softplus(D(G(z)))                                minimax: log(1 - sigmoid D(G(z)))

z ~ N(0, I) in R^latent; Adam with betas (0.5, 0.999) for both. Images are in [0, 1], grey or colour, of any size
(`convolutions.working_size`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guard.record import Record, option, part

from ..cache.trained_network import Schedule, train_kept
from ..engine.divided import average_gradients, divided
from ..engine.epochs import epochs_showing
from ..engine.seeds import seeded
from ..outliers.base import IDBatch, Learner, PrepareContext
from . import convolutions

SHOWN = 500_000  # images that a DCGAN sees by default: 10 epochs of CIFAR-10
FEWEST = 16  # images whose statistics batch norm may take


class Generator(nn.Module):
    """Latents (N, latent) -> images (N, channels, height, width) in [0, 1].

    Batch norm takes the statistics of the N images, in sampling as in training: so do the official codes of the joint
    confidence loss and of ATOL. Running ones are far off for the first hundred steps of a GAN, and latents wider than
    N(0, I) saturate under them.
    """

    def __init__(self, latent: int, width: int, channels: int, height: int, image_width: int) -> None:
        super().__init__()
        size = convolutions.working_size(height, image_width)
        first = convolutions.widths(size, width)[0]
        self.latent, self.image_size = latent, (height, image_width)
        self.project = nn.Sequential(
            nn.ConvTranspose2d(latent, first, convolutions.START, bias=False),
            nn.BatchNorm2d(first, track_running_stats=False),
            nn.ReLU(),
        )
        self.up = convolutions.up(size, width, channels, running=False)

    def forward(self, z: Tensor) -> Tensor:
        return convolutions.resized(self.up(self.project(z[:, :, None, None])), *self.image_size)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Latents (N, latent) -> uint8 (N, H, W, channels)."""
        return convolutions.to_pixels(self(z))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """uint8 (n, H, W, channels) of z ~ N(0, I)."""
        return self.decode(self.latents(max(n, FEWEST), generator))[:n]

    def latents(self, n: int, generator: torch.Generator) -> Tensor:
        """z ~ N(0, I), (n, latent)."""
        return torch.randn(n, self.latent, generator=generator, device=generator.device)


class Discriminator(nn.Module):
    """Images (N, channels, ., .) in [0, 1] -> logits (N,), > 0 = real."""

    def __init__(self, width: int, channels: int, height: int, image_width: int) -> None:
        super().__init__()
        self.size = convolutions.working_size(height, image_width)
        self.down = convolutions.down(self.size, width, channels)
        self.last = nn.Conv2d(convolutions.widths(self.size, width)[0], 1, convolutions.START, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.down(convolutions.resized(images, self.size, self.size))).flatten()
        return logits


class DCGANOptions(Record):
    """Form and learning of the pair."""

    latent: int = option(100, "Width of the latents.", ge=1)
    width: int = option(
        32, "Channels of the largest hidden map, doubled at each halving (64 in the papers, four times the work).", ge=1
    )
    lr: float = option(2e-4, "Adam's learning rate, of generator and discriminator.", gt=0)


class TrainedDCGANOptions(DCGANOptions):
    """As `DCGANOptions`, for one that is trained alone and first."""

    epochs: int | None = option(None, "Passes over the images; default as many as show it 500,000.", ge=1)


class DCGAN(Learner):
    """Generator, discriminator and their optimizers.

    Args:
        saturating: the generator's loss in its minimax form.
    """

    def __init__(
        self, options: DCGANOptions, channels: int, height: int, width: int, *, saturating: bool = False
    ) -> None:
        super().__init__()
        self.generator = Generator(options.latent, options.width, channels, height, width)
        self.discriminator = Discriminator(options.width, channels, height, width)
        self.saturating = saturating
        self.lr = options.lr
        self._optimizers: dict[str, torch.optim.Optimizer] = {}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        if not self._optimizers:
            self._optimizers = {
                name: torch.optim.Adam(part.parameters(), lr=self.lr, betas=(0.5, 0.999))
                for name, part in (("discriminator", self.discriminator), ("generator", self.generator))
            }
        return self._optimizers

    def update(
        self, real: Tensor, generator: torch.Generator, penalty: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """One step of each, the discriminator first.

        Args:
            real: images (N, channels, H, W) in [0, 1].
            penalty: a further loss of the generator, of its images (N, channels, H, W). Whatever networks it goes
                through are left alone: only the generator's parameters get gradients.

        Returns:
            "gan_d", "gan_g" and, with a penalty, "gan_penalty": scalar losses before the step.
        """
        self.train()
        optimizers = self.optimizers()
        made = divided(self.generator, self.generator.latents(len(real), generator))
        logits_real, logits_made = (divided(self.discriminator, x) for x in (real, made.detach()))
        loss_d = F.softplus(-logits_real).mean() + F.softplus(logits_made).mean()
        descend(optimizers["discriminator"], self.discriminator, loss_d)
        logits = divided(self.discriminator, made)
        loss_g = -F.softplus(logits).mean() if self.saturating else F.softplus(-logits).mean()
        losses = {"gan_d": loss_d.detach(), "gan_g": loss_g.detach()}
        if penalty is not None:
            extra = penalty(made)
            losses["gan_penalty"] = extra.detach()
            loss_g = loss_g + extra
        descend(optimizers["generator"], self.generator, loss_g)
        return losses


def descend(optimizer: torch.optim.Optimizer, part: nn.Module, loss: Tensor) -> None:
    """A step of `part` alone: no other parameter that the loss depends on gets a gradient."""
    parameters = list(part.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    average_gradients(parameters)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def build_dcgan(context: PrepareContext, options: DCGANOptions, *, saturating: bool = False) -> DCGAN:
    """A fresh pair for the context's images, its weights from the context's seed."""
    p = context.data.preprocess
    with seeded(context.seed):
        gan = DCGAN(options, p.channels, p.height, p.width, saturating=saturating)
    return gan.to(context.device)


def trained_generator(context: PrepareContext, options: TrainedDCGANOptions) -> Generator:
    """The generator of a pair trained adversarially, alone, on the context's images; kept in the context's folder."""
    gan = build_dcgan(context, options)
    schedule = Schedule(epochs=options.epochs or epochs_showing(SHOWN, len(context.data)))

    def update(batch: IDBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return gan.update(convolutions.to_signal(batch.images), generator)

    train_kept(context, gan, update, "dcgan", part(options, DCGANOptions), schedule)
    return gan.generator
