"""ATOL's auxiliary images: a generator's latents crafted into classes and outliers (methods.md B11).

    mu_c = mean * (+-1)^latent, signs at random;   in-distribution of class c:  z ~ N(mu_c, std^2 I)
    outliers:  z ~ U(-mean s / 2, mean s / 2)^latent, none within a ball that holds 99.9 % of a class's latents

Source: Zheng et al., NeurIPS 2023. The outliers are new in every step; the official code makes them once an epoch and
does not look whether one falls into a class. Classes and outliers are decoded apart, as there: the generator's batch
norm divides out what scale the latents of a batch have in common. So the outliers, a wide cube's, look like the
generator's ordinary samples, and each class like one of them with little variation.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from guard.errors import ConfigError

from ...cache.keyed import Kept
from ...generators.dcgan import DCGANOptions, Generator, trained_generator
from ..base import IDBatch, Outliers, PrepareContext, Synthesiser

HELD = 0.999  # of a class's latents, by the ball that outliers stay out of


class LatentOptions(DCGANOptions):
    """Where the latents lie.

    Attributes:
        mean, std: of the classes (published: 5 and 0.1 for CIFAR-10, 1.2 and 0.5 for CIFAR-100).
        spread: s, the side of the outliers' cube in units of `mean`.
        reject: keep outliers out of the classes' balls.
        gan_epochs: passes over the images in the generator's own training; None: as many as show it 500,000.
    """

    mean: float = Field(default=5.0, gt=0)
    std: float = Field(default=0.1, gt=0)
    spread: float = Field(default=4.0, gt=0)
    reject: bool = True
    gan_epochs: int | None = Field(default=None, ge=1)


def class_means(num_classes: int, latent: int, mean: float, generator: torch.Generator) -> Tensor:
    """(C, latent) of +-mean, a pattern of signs of its own for each class.

    Raises:
        ConfigError: two classes drew the same signs.
    """
    signs = 2.0 * torch.randint(0, 2, (num_classes, latent), generator=generator) - 1
    if len(signs.unique(dim=0)) < num_classes:
        raise ConfigError(f"latent={latent} is too small to tell {num_classes} classes apart by signs; raise it")
    return mean * signs


def ball(latent: int, std: float) -> float:
    """Radius within which 99.9 % of N(0, std^2 I) in R^latent lies."""
    from scipy.stats import chi2

    return std * float(chi2.ppf(HELD, latent)) ** 0.5


def outlier_latents(means: Tensor, count: int, side: float, radius: float, generator: torch.Generator) -> Tensor:
    """Uniform draws (count, latent) from the cube of that side around 0, farther than `radius` from every mean.

    Twice as many are drawn and the first that are far enough kept, so nothing waits for the device; should more than
    half of a cube lie within the balls, some draws inside them remain.
    """
    tries = count if radius <= 0 else 2 * count
    drawn = side * (torch.rand(tries, means.shape[1], generator=generator, device=means.device) - 0.5)
    near = torch.cdist(drawn, means).amin(-1) <= radius
    return drawn[near.long().argsort(stable=True)[:count]]


class AuxiliaryLatents(Synthesiser):
    """Per step `classes` images that count as in-distribution, of the batch's classes, and `count` outliers.

    `Outliers.labels` are the classes, -1 for outliers. The generator is trained on the user's images first.
    """

    space: ClassVar = "image"
    means: Tensor

    def __init__(self, classes: int, count: int, num_classes: int, options: LatentOptions) -> None:
        super().__init__()
        self.classes, self.count, self.options = classes, count, options
        self.radius = ball(options.latent, options.std) if options.reject else 0.0
        self.register_buffer("means", torch.zeros(num_classes, options.latent))
        self._generator: Kept[Generator] = Kept()

    def prepare(self, context: PrepareContext) -> None:
        signs = torch.Generator().manual_seed(context.seed)
        self.means.copy_(class_means(len(self.means), self.options.latent, self.options.mean, signs))
        self._generator = Kept([trained_generator(context, self.options, self.options.gan_epochs)])

    def latents(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (classes + count, latent) and their labels, for a batch of in-distribution labels (N,)."""
        o = self.options
        inside = labels[torch.arange(self.classes, device=labels.device) % len(labels)]
        noise = torch.randn(self.classes, o.latent, generator=generator, device=labels.device)
        outside = outlier_latents(self.means, self.count, o.mean * o.spread, self.radius, generator)
        z = torch.cat([self.means[inside] + o.std * noise, outside])
        return z, torch.cat([inside, inside.new_full((self.count,), -1)])

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        trained = self._generator.network("method 'atol'")
        z, labels = self.latents(batch.labels, generator)
        images = torch.cat([trained.decode(part) for part in (z[: self.classes], z[self.classes :])])
        return Outliers(images, "auxiliary images of crafted latents", labels=labels)
