"""Steps of torchvision that work image by image on the host.

They draw from a seed of their own for each batch, so that a run of one seed is one run.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .base import Step, register_step


class HostStep(Step):
    """A transform of torchvision at its defaults."""

    elaborate = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        transform = _transform(self.name)
        with torch.random.fork_rng(devices=[]):  # it draws from the global generator
            torch.manual_seed(seed)
            made = [transform(image) for image in images.permute(0, 3, 1, 2).cpu()]
        return torch.stack(made).permute(0, 2, 3, 1).contiguous().to(images.device)


@register_step
class RandAugment(HostStep):
    """torchvision's."""

    name = "randaugment"
    summary = "Two operations of one strength."
    source = "Cubuk et al., NeurIPS 2020"


@register_step
class AutoAugment(HostStep):
    """torchvision's, with the policy of ImageNet."""

    name = "autoaugment"
    summary = "One of 25 pairs of operations that were learned on ImageNet."
    source = "Cubuk et al., CVPR 2019"


@register_step
class AugMix(HostStep):
    """torchvision's."""

    name = "augmix"
    summary = "A mean of the image and three chains of operations."
    source = "Hendrycks et al., ICLR 2020"


@functools.cache
def _transform(name: str) -> Any:
    from torchvision.transforms import v2  # a second to import

    return {"randaugment": v2.RandAugment, "autoaugment": v2.AutoAugment, "augmix": v2.AugMix}[name]()
