"""Class-mixed generation: images that a conditional VAE decodes from mixed class embeddings (CMG, methods.md B12).

    e_i = (e_a)_i or (e_b)_i, each coordinate i with probability 1/2, a != b;   z ~ N(0, s^2 I);   x~ = dec(z, e)

The official code may draw a = b, whose images are of the class; here the two differ.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ...cache.keyed import Kept
from ...generators.convolutions import to_pixels
from ...generators.cvae import CVAE, CVAEOptions, trained_cvae
from ..base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser


def different_classes(count: int, num_classes: int, generator: torch.Generator) -> Tensor:
    """Pairs (count, 2) of different classes, every ordered pair equally likely; int64."""
    drawn = torch.rand(2, count, generator=generator, device=generator.device, dtype=torch.float64)
    first = (drawn[0] * num_classes).long()
    step = 1 + (drawn[1] * (num_classes - 1)).long()
    return torch.stack([first, (first + step) % num_classes], -1)


def mixed(pairs: Tensor, generator: torch.Generator) -> Tensor:
    """Each coordinate of one of the two, with probability 1/2; (K, 2, D) -> (K, D)."""
    first = torch.rand(len(pairs), pairs.shape[-1], generator=generator, device=pairs.device) < 0.5
    return torch.where(first, pairs[:, 0], pairs[:, 1])


@register_synthesiser
class ClassMixed(ImageSynthesiser):
    """Decoded from two classes' mixed embeddings and a wide latent, by a conditional VAE trained first (CMG)."""

    name: ClassVar[str] = "cmg"
    source: ClassVar[str] = "CMG, Wang et al., ECML-PKDD 2022"
    prepared: ClassVar[bool] = True

    class Options(CVAEOptions):
        """`spread`: s, the latents' standard deviation (published: 5 for CIFAR-10, 3 for MNIST). `cvae_epochs`: passes
        over the images; None: as many as show it 500,000 (published: 200 for CIFAR-10, 100 for MNIST)."""

        spread: float = Field(default=5.0, gt=0)
        cvae_epochs: int | None = Field(default=None, ge=1)

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._cvae: Kept[CVAE] = Kept()

    def prepare(self, context: PrepareContext) -> None:
        self._cvae = Kept([trained_cvae(context, self.options, self.options.cvae_epochs)])

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        cvae = self._cvae.network("synthesiser 'cmg'")
        parents = different_classes(self.count, self.num_classes, generator)
        embedded = mixed(cvae.embedding(parents), generator)
        z = self.options.spread * torch.randn(embedded.shape, generator=generator, device=embedded.device)
        return Outliers(to_pixels(cvae(z, embedded)), "decoded from mixed class embeddings", parents=parents)
