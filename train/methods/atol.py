"""ATOL, auxiliary task-based OOD learning. Source: Zheng et al., NeurIPS 2023 (methods.md B11).

    auxiliary in-distribution images G(z), z ~ N(mu_y, std^2 I), and outliers G(z), z uniform in a wide cube
    L = CE (labels smoothed by 0.5) on real and auxiliary images + CE(U, softmax f) on the outliers
        + trade_off * SupCon(0.07) on the features of real and auxiliary images

A trained classifier is fine-tuned, gradients clipped to norm 1. Published for CIFAR-10: lr 0.005, mean 5, std 0.1,
trade_off 1 (the defaults); for CIFAR-100: lr 0.04, mean 1.2, std 0.5, trade_off 5.

Departures, each on purpose. Real and auxiliary images of a class share a label in SupCon, so the domains are pulled
together; the official code shifts the auxiliary labels. The outliers are new in every step, not in every epoch, and are
kept out of the classes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from guard.errors import ConfigError

from ..cache.keyed import Kept
from ..generators.dcgan import DCGANOptions, Generator, trained_generator
from ..losses.smoothed_cross_entropy import SmoothedCrossEntropyLoss
from ..losses.supcon import SupConLoss
from ..losses.uniform_target import UniformTargetLoss
from ..outliers.base import IDBatch, Outliers, PrepareContext, Synthesiser
from .base import Method, MethodContext, MethodOptions, Stage, register

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


class ATOLOptions(MethodOptions, LatentOptions):
    """Published defaults for CIFAR-10. `id_ratio`, `ratio`: auxiliary images and outliers per in-distribution image."""

    smoothing: float = Field(default=0.5, ge=0, lt=1)
    weight: float = Field(default=1.0, ge=0)
    trade_off: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.07, gt=0)
    id_ratio: float = Field(default=1.0, gt=0)
    ratio: float = Field(default=4.0, gt=0)
    finetune_epochs: int = Field(default=10, ge=1)
    finetune_lr: float = Field(default=0.005, gt=0)


@register
class ATOL(Method):
    """A generator's crafted latents as auxiliary classes and outliers (Zheng et al., NeurIPS 2023)."""

    name = "atol"
    Options = ATOLOptions
    score = "max_logit"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: ATOLOptions = self.options
        inside, outside = context.per_step(o.id_ratio), context.per_step(o.ratio)
        finetune = Stage(
            "auxiliary",
            o.finetune_epochs,
            o.finetune_lr,
            AuxiliaryLatents(inside, outside, context.num_classes, o),
            (
                SmoothedCrossEntropyLoss(o.smoothing),
                UniformTargetLoss(o.weight),
                SupConLoss(o.trade_off, o.temperature),
            ),
            head_loss=False,
            clip=1.0,
            warmup=0.0,
        )
        return context.after_classifier(finetune)
