"""CEDA, confidence-enhancing data augmentation. Source: Hein, Andriushchenko & Bitterwolf, CVPR 2019.

    L = CE(f(x), y) + weight * mean over noise images z of log max_c softmax(f(z))_c

The noise (`train.outliers.images.low_pass_noise`) is half shuffled pixels of training images and half uniform noise,
low-pass filtered and stretched; `ratio` noise images per in-distribution image, 1 as published. The authors divide both
sums by the size of the joint batch, which halves the learning rate and changes nothing else; here each is a mean.

The score is MSP, as in the paper: the loss bounds the largest probability of noise, and leaves the scale of its logits,
which an energy would read, as it is.
"""

from __future__ import annotations

from guard.record import option

from ..losses.max_confidence import MaxConfidenceLoss
from ..outliers.images.low_pass_noise import LowPassNoise
from .base import Method, MethodContext, MethodOptions, Stage, register


class CEDAOptions(MethodOptions):
    """The official defaults."""

    weight: float = option(1.0, "Weight of the confidence in noise.", common=True, ge=0)
    ratio: float = option(1.0, "Noise images per in-distribution image of a batch.", common=True, gt=0)


@register
class CEDA(Method):
    """Low confidence on low-pass filtered noise (Hein et al., CVPR 2019)."""

    name = "ceda"
    Options = CEDAOptions
    score = "msp"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: CEDAOptions = self.options
        noise = LowPassNoise(context.per_step(o.ratio), context.num_classes)
        return [Stage("classifier", context.epochs, context.lr, noise, (MaxConfidenceLoss(o.weight),))]
