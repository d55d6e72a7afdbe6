"""ACET, adversarial confidence-enhancing training. Source: Hein et al., CVPR 2019.

    L = CE(f(x), y) + weight * mean over noise z of  max_{|u - z|_inf <= epsilon} log max_c softmax(f(u))_c

CEDA on the worst image in a ball around each noise image, found by `steps` steps of gradient ascent on the network as
it is at that step (`train.outliers.images.adversarial_noise`). That costs 1 + steps forward and steps backward passes
of the noise on top of CEDA's step: where 40, as published, are too many, take steps=5. The score is MSP, as for CEDA.
"""

from __future__ import annotations

from guard.record import option

from ..losses.max_confidence import MaxConfidenceLoss
from ..outliers.images.adversarial_noise import AdversarialNoise
from .base import Method, MethodContext, Stage, register
from .ceda import CEDAOptions


class ACETOptions(CEDAOptions):
    """The official defaults."""

    epsilon: float = option(0.3, "Radius of the ball around a noise image, as a share of the pixel range.", gt=0, le=1)
    steps: int = option(40, "Steps of gradient ascent, each a forward and a backward pass.", common=True, ge=1)


@register
class ACET(Method):
    """Low confidence on the worst images around low-pass filtered noise (Hein et al., CVPR 2019)."""

    name = "acet"
    Options = ACETOptions
    score = "msp"

    def stages(self, context: MethodContext) -> list[Stage]:
        o: ACETOptions = self.options
        count = context.per_step(o.ratio)
        noise = AdversarialNoise(count, context.num_classes, epsilon=o.epsilon, steps=o.steps)
        return [Stage("classifier", context.epochs, context.lr, noise, (MaxConfidenceLoss(o.weight),))]
