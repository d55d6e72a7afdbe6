"""The joint confidence loss. Source: Lee, Lee, Lee & Shin, ICLR 2018.

    D           -log D(x) - log(1 - D(G(z)))
    G           -log D(G(z)) + beta KL(U || softmax f(G(z)))
    classifier  CE + beta KL(U || softmax f(G(z))),   fresh z, no gradient to G

Classifier and GAN alternate in every step, from the first one on. ``variant="code"`` (the default) is the generator's
non-saturating loss, as in the official code; ``variant="paper"`` the minimax form log(1 - D(G(z))), whose gradient
fades while the discriminator is ahead. beta is 0.1 for CIFAR-10 and 1 for SVHN in the paper. Departures: the classifier
is trained as by every method here (the paper: Adam 2e-4), and `gan.width` is 32 instead of 64. The score is the
paper's, MSP.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from guard.graph.module import GuardModule
from guard.record import Record, option

from ..cache.held import Held
from ..engine.divided import divided
from ..engine.modes import evaluating
from ..engine.precision import mixed_precision
from ..generators.convolutions import to_signal
from ..generators.dcgan import DCGAN, DCGANOptions, Generator, TrainedDCGANOptions, build_dcgan, trained_generator
from ..losses.uniform_target import UniformTargetLoss, uniform_target_loss
from ..outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, Synthesiser, register_synthesiser
from .base import Method, MethodContext, MethodOptions, Stage, register


@register_synthesiser
class PretrainedGAN(ImageSynthesiser):
    """G(z) of a DCGAN that is trained on the in-distribution images first, without a classifier."""

    name: ClassVar[str] = "gan"
    source: ClassVar[str] = "DCGAN, Radford et al., ICLR 2016"
    prepared: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    class Options(Record):
        gan: TrainedDCGANOptions = option(TrainedDCGANOptions(), "The DCGAN and its training.")

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._generator: Held[Generator] = Held(
            "synthesiser 'gan' decodes with a network that it trains first: call prepare before sample"
        )

    def prepare(self, context: PrepareContext) -> None:
        self._generator.put(trained_generator(context, self.options.gan))

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        trained = self._generator.get()
        return Outliers(trained.sample(self.count, generator), "samples of a DCGAN of the in-distribution images")


class JointGAN(Synthesiser):
    """`count` images G(z) per step of a GAN that learns in every step, after the classifier.

    The generator's images go through the classifier in eval mode: its parameters get no gradient from that, and its
    batch-norm statistics do not move.

    Args:
        beta: weight of the divergence in the generator's loss.
        saturating: the minimax form of the generator's loss.
    """

    space: ClassVar = "image"

    def __init__(self, count: int, options: DCGANOptions, *, beta: float, saturating: bool = False) -> None:
        super().__init__()
        self.count, self.options, self.beta, self.saturating = count, options, beta, saturating
        self.gan: DCGAN | None = None  # made by `prepare`, which knows the images' size; its state is in checkpoints

    def prepare(self, context: PrepareContext) -> None:
        if self.gan is None:
            self.gan = build_dcgan(context, self.options, saturating=self.saturating)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return self.gan.optimizers() if self.gan is not None else {}

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        images = self._prepared().generator.sample(self.count, generator)
        return Outliers(images, "samples of a jointly trained GAN")

    def learn(self, batch: IDBatch, module: GuardModule, generator: torch.Generator) -> dict[str, Tensor]:
        with evaluating(module.classifier):
            losses = self._prepared().update(
                to_signal(batch.images), generator, lambda made: self.beta * divergence(module, made)
            )
        losses["gan_kl"] = losses.pop("gan_penalty")
        return losses

    def _prepared(self) -> DCGAN:
        assert self.gan is not None  # the loop prepares a synthesiser before its first step
        return self.gan


def divergence(module: GuardModule, images: Tensor) -> Tensor:
    """Mean KL(U || softmax f(x)) >= 0 of images (N, channels, H, W) in [0, 1], with gradients to the images."""
    x = module.normalise(255 * images.permute(0, 2, 3, 1)).contiguous(memory_format=torch.channels_last)
    with mixed_precision(x.device)():
        logits = divided(lambda rows: module.classifier(rows).logits, x)
    return uniform_target_loss(logits.float()) - math.log(logits.shape[-1])


class GANOptions(MethodOptions):
    """The paper's defaults for CIFAR-10."""

    beta: float = option(0.1, "Weight of the divergence from uniform, in both losses.", common=True, ge=0)
    ratio: float = option(1.0, "Generated images per in-distribution image of a batch.", common=True, gt=0)
    variant: Literal["code", "paper"] = option(
        "code", "The generator's loss: non-saturating as in the official code, or minimax as in the paper."
    )
    gan: DCGANOptions = option(DCGANOptions(), "The DCGAN beside the classifier.")


@register
class JointConfidence(Method):
    """A GAN trained with the classifier, which is to be uniform on what it generates (Lee et al., ICLR 2018)."""

    name = "gan"
    Options = GANOptions
    score = "msp"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: GANOptions = self.options
        count = context.per_step(o.ratio)
        gan = JointGAN(count, o.gan, beta=o.beta, saturating=o.variant == "paper")
        return [Stage("classifier", context.epochs, context.lr, gan, (UniformTargetLoss(o.beta),))]
