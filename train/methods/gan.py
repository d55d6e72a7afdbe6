"""The joint confidence loss. Source: Lee, Lee, Lee & Shin, ICLR 2018 (methods.md B3).

    D           -log D(x) - log(1 - D(G(z)))
    G           -log D(G(z)) + beta KL(U || softmax f(G(z)))
    classifier  CE + beta KL(U || softmax f(G(z))),   fresh z, no gradient to G

Classifier and GAN alternate in every step, from the first one on. ``variant="code"`` (the default) is the generator's
non-saturating loss, as in the official code; ``variant="paper"`` the minimax form log(1 - D(G(z))), whose gradient
fades while the discriminator is ahead. beta is 0.1 for CIFAR-10 and 1 for SVHN in the paper. Departures: the classifier
is trained as by every method here (the paper: Adam 2e-4), and `ngf` is 32 instead of 64. The score is the paper's, MSP.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..generators.dcgan import DCGANOptions
from ..losses.uniform_target import UniformTargetLoss
from ..outliers.images.gan import JointGAN
from .base import Method, MethodContext, MethodOptions, Stage, register


class GANOptions(MethodOptions, DCGANOptions):
    """The paper's defaults for CIFAR-10. `ratio`: generated images per in-distribution image."""

    beta: float = Field(default=0.1, ge=0)
    ratio: float = Field(default=1.0, gt=0)
    variant: Literal["code", "paper"] = "code"


@register
class JointConfidence(Method):
    """A GAN trained with the classifier, which is to be uniform on what it generates (Lee et al., ICLR 2018)."""

    name = "gan"
    Options = GANOptions
    score = "msp"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: GANOptions = self.options
        count = context.per_step(o.ratio)
        gan = JointGAN(count, o, beta=o.beta, saturating=o.variant == "paper")
        return [Stage("classifier", context.epochs, context.lr, gan, (UniformTargetLoss(o.beta),))]
