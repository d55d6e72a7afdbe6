"""ATOL, auxiliary task-based OOD learning. Source: Zheng et al., NeurIPS 2023.

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
from torch import Tensor

from guard.errors import ConfigError
from guard.record import Record, option

from ..cache.held import Held
from ..generators.dcgan import Generator, TrainedDCGANOptions, trained_generator
from ..losses.smoothed_cross_entropy import SmoothedCrossEntropyLoss
from ..losses.supcon import SupConLoss
from ..losses.uniform_target import UniformTargetLoss
from ..outliers.base import IDBatch, Outliers, PrepareContext, Synthesiser
from .base import Method, MethodContext, MethodOptions, Stage, register

HELD = 0.999  # of a class's latents, by the ball that outliers stay out of


class LatentOptions(Record):
    """Where the latents lie; published for CIFAR-10."""

    gan: TrainedDCGANOptions = option(TrainedDCGANOptions(), "The DCGAN and its training.")
    mean: float = option(5.0, "Distance of the classes' means from 0 per coordinate (1.2 for CIFAR-100).", gt=0)
    std: float = option(0.1, "Standard deviation of a class's latents per coordinate (0.5 for CIFAR-100).", gt=0)
    spread: float = option(4.0, "Side of the outliers' cube, in units of mean.", gt=0)
    reject: bool = option(True, "Keep outliers out of the balls that hold 99.9 % of each class's latents.")


def class_means(num_classes: int, latent: int, mean: float, generator: torch.Generator) -> Tensor:
    """(C, latent) of +-mean, a pattern of signs of its own for each class.

    Raises:
        ConfigError: two classes drew the same signs.
    """
    signs = 2.0 * torch.randint(0, 2, (num_classes, latent), generator=generator) - 1
    if len(signs.unique(dim=0)) < num_classes:
        raise ConfigError(f"gan.latent={latent} is too small to tell {num_classes} classes apart by signs; raise it")
    return mean * signs


def ball(latent: int, std: float) -> float:
    """Radius within which 99.9 % of N(0, std^2 I) in R^latent lies."""
    from scipy.stats import chi2

    radius: float = std * float(chi2.ppf(HELD, latent)) ** 0.5
    return radius


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
    augmented = False  # officially, generated images go in as they are
    means: Tensor

    def __init__(self, classes: int, count: int, num_classes: int, options: LatentOptions) -> None:
        super().__init__()
        self.classes, self.count, self.options = classes, count, options
        self.radius = ball(options.gan.latent, options.std) if options.reject else 0.0
        self.register_buffer("means", torch.zeros(num_classes, options.gan.latent))
        self._generator: Held[Generator] = Held(
            "method 'atol' decodes with a network that it trains first: call prepare before sample"
        )

    def check(self, context: PrepareContext) -> None:
        self._drawn_means(context)

    def prepare(self, context: PrepareContext) -> None:
        self.means.copy_(self._drawn_means(context))
        self._generator.put(trained_generator(context, self.options.gan))

    def _drawn_means(self, context: PrepareContext) -> Tensor:
        signs = torch.Generator().manual_seed(context.seed)
        return class_means(len(self.means), self.options.gan.latent, self.options.mean, signs)

    def latents(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents (classes + count, latent) and their labels, for a batch of in-distribution labels (N,)."""
        o = self.options
        inside = labels[torch.arange(self.classes, device=labels.device) % len(labels)]
        noise = torch.randn(self.classes, o.gan.latent, generator=generator, device=labels.device)
        outside = outlier_latents(self.means, self.count, o.mean * o.spread, self.radius, generator)
        z = torch.cat([self.means[inside] + o.std * noise, outside])
        return z, torch.cat([inside, inside.new_full((self.count,), -1)])

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        trained = self._generator.get()
        z, labels = self.latents(batch.labels, generator)
        images = torch.cat([trained.decode(part) for part in (z[: self.classes], z[self.classes :])])
        return Outliers(images, "auxiliary images of crafted latents", labels=labels)


class ATOLOptions(MethodOptions, LatentOptions):
    """Published defaults for CIFAR-10."""

    smoothing: float = option(0.5, "Label smoothing of real and auxiliary images, from 0 to below 1.", ge=0, lt=1)
    weight: float = option(1.0, "Weight of the uniform target on outliers.", common=True, ge=0)
    trade_off: float = option(1.0, "Weight of the contrastive loss (5 for CIFAR-100).", common=True, ge=0)
    temperature: float = option(0.07, "Temperature of the contrastive loss.", gt=0)
    id_ratio: float = option(1.0, "Auxiliary images with a class per in-distribution image of a batch.", gt=0)
    ratio: float = option(4.0, "Outliers per in-distribution image of a batch.", gt=0)
    tune_epochs: int = option(10, "Epochs of tuning after the classifier's own.", common=True, ge=1)
    tune_lr: float = option(0.005, "Peak learning rate of the tuning (0.04 for CIFAR-100).", gt=0)


@register
class ATOL(Method):
    """A generator's crafted latents as auxiliary classes and outliers (Zheng et al., NeurIPS 2023)."""

    name = "atol"
    Options = ATOLOptions
    score = "max_logit"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: ATOLOptions = self.options
        inside, outside = context.per_step(o.id_ratio), context.per_step(o.ratio)
        tuning = Stage(
            "auxiliary",
            o.tune_epochs,
            o.tune_lr,
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
        return context.after_classifier(tuning)
