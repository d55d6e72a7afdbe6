"""The noise that the network is surest of, nearby (ACET, Hein et al., CVPR 2019).

    argmax_u  log max_c softmax(f(u))_c,   |u - z|_inf <= eps,   u in [0, 1]^d,   z low-pass noise

by projected gradient ascent: a start uniform in the ball times U(0, 1), `steps` steps of eps / steps along the sign of
the gradient, the best iterate kept. The network is in eval mode for it, so that an image's worst neighbour does not
depend on the batch, and neither its batch-norm statistics nor its gradients change.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from guard.errors import ConfigError
from guard.graph.module import GuardModule
from guard.record import option

from ...engine.divided import divided
from ...engine.modes import evaluating
from ...engine.precision import mixed_precision
from ...losses.max_confidence import log_confidence
from ..base import IDBatch, Outliers, PrepareContext, register_synthesiser
from .low_pass_noise import LowPassNoise, LowPassOptions


def worst_nearby(module: GuardModule, noise: Tensor, epsilon: float, steps: int, generator: torch.Generator) -> Tensor:
    """The images of largest `log_confidence` that `steps` steps find around `noise`.

    Args:
        noise: uint8 (K, H, W, channels).
        epsilon: radius of the L_inf ball in grey levels (0..255).

    Returns:
        uint8 (K, H, W, channels), inside the ball.
    """
    precision = mixed_precision(noise.device)
    centre = noise.float()
    low, high = (centre - epsilon).clamp_min(0), (centre + epsilon).clamp_max(255)
    reach = epsilon * torch.rand(len(noise), 1, 1, 1, generator=generator, device=noise.device)
    offset = torch.rand(centre.shape, generator=generator, device=noise.device) * 2 - 1
    first = (centre + reach * offset).clamp(low, high)

    def climbed(now: Tensor, low: Tensor, high: Tensor) -> Tensor:
        best, best_value = now, now.new_full((len(now),), -torch.inf)
        for step in range(steps + 1):
            now.requires_grad_()
            x = module.normalise(now).contiguous(memory_format=torch.channels_last)
            with precision():
                logits = module.classifier(x).logits
            value = log_confidence(logits.float())
            better = value.detach() > best_value
            best = torch.where(better.view(-1, 1, 1, 1), now.detach(), best)
            best_value = torch.where(better, value.detach(), best_value)
            if step < steps:
                (gradient,) = torch.autograd.grad(value.sum(), now)  # of the image alone: parameters get none
                now = (now.detach() + epsilon / steps * gradient.sign()).clamp(low, high)
        return best

    with evaluating(module), torch.enable_grad():
        best = divided(climbed, first, low, high)
    return best.round().clamp(low.ceil(), high.floor()).to(torch.uint8)  # rounding must not leave the ball


class AdversarialOptions(LowPassOptions):
    """The published values."""

    epsilon: float = option(
        0.3, "Radius of the ball around a noise image, as a share of the pixel range.", common=True, gt=0, le=1
    )
    steps: int = option(40, "Steps of gradient ascent, each a forward and a backward pass.", common=True, ge=1)


@register_synthesiser
class AdversarialNoise(LowPassNoise):
    """Low-pass noise moved, inside a small ball, to where the network is surest of a class."""

    name: ClassVar[str] = "adversarial_noise"
    source: ClassVar[str] = "ACET, Hein et al., CVPR 2019"
    Options: ClassVar[type[LowPassOptions]] = AdversarialOptions
    augmented = False  # an image found pixel by pixel is another one when it is shifted

    @classmethod
    def needs_classifier(cls, options: Any) -> bool:
        return True

    def prepare(self, context: PrepareContext) -> None:
        self._network = (context.module,)  # in a tuple: it is not part of this synthesiser's state

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        if not hasattr(self, "_network"):
            raise ConfigError(f"synthesiser {self.name!r} attacks a network: call prepare with one before sample")
        noise = super().sample(batch, generator)
        o: AdversarialOptions = self.options
        images = worst_nearby(self._network[0], noise.data, 255 * o.epsilon, o.steps, generator)
        return noise._replace(data=images, origin=f"worst noise within {o.epsilon:g} of low-pass noise")
