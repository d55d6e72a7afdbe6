"""CMG, class-mixed generation. Source: Wang, Shao, Lin, Hu & Liu, ECML-PKDD 2022.

    x~ = dec(z, e), e mixed by coordinates of two classes' embeddings, z ~ N(0, s^2 I)      a conditional VAE
    cmg_s:  CE over C + 1 classes, pseudo images the last one;                              score log p_{C+1}
    cmg_e:  CE + weight * energy hinge, margins at the 20th percentile of the in-distribution energies and the 80th
            of the pseudo images' energies before tuning;                                   score energy

The classifier is trained first (or comes from ``init=``); then its backbone is frozen and the head alone learns, by
Adam; the official code tunes a hidden layer of 512 units with it (head "mlp_c_plus_1", or "mlp" for cmg_e, which are
trained with the classifier and then tuned). Labels may change a little, features do not. Two different classes are
mixed; the official code may mix one with itself. The learning rate falls by a cosine, and the weights of the last step
are kept; the code takes the best AUROC seen on its test sets.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from guard.record import Record, option

from ..cache.held import Held
from ..generators.convolutions import to_pixels
from ..generators.cvae import CVAE, CVAEOptions, trained_cvae
from ..losses.base import Regulariser
from ..losses.energy_hinge import EnergyHingeLoss
from ..losses.k_plus_1 import KPlusOneLoss
from ..outliers.base import IDBatch, ImageSynthesiser, Outliers, PrepareContext, register_synthesiser
from .base import Method, MethodContext, MethodOptions, Stage, register


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


class ClassMixedOptions(Record):
    """Published for CIFAR-10, but for the VAE's size and epochs (200 published)."""

    spread: float = option(
        5.0, "Standard deviation of the latents (published: 5 for CIFAR-10, 3 for MNIST).", common=True, gt=0
    )
    cvae: CVAEOptions = option(CVAEOptions(), "The conditional VAE and its training.")


@register_synthesiser
class ClassMixed(ImageSynthesiser):
    """Decoded from two classes' mixed embeddings and a wide latent, by a conditional VAE trained first (CMG)."""

    name: ClassVar[str] = "cmg"
    source: ClassVar[str] = "CMG, Wang et al., ECML-PKDD 2022"
    prepared: ClassVar[bool] = True
    divides: ClassVar[bool] = True

    Options: ClassVar = ClassMixedOptions

    def __init__(self, count: int, num_classes: int, **options: Any) -> None:
        super().__init__(count, num_classes, **options)
        self._cvae: Held[CVAE] = Held(
            "synthesiser 'cmg' decodes with a network that it trains first: call prepare before sample"
        )

    def prepare(self, context: PrepareContext) -> None:
        self._cvae.put(trained_cvae(context, self.options.cvae))

    @torch.no_grad()
    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        cvae = self._cvae.get()
        parents = different_classes(self.count, self.num_classes, generator)
        embedded = mixed(cvae.embedding(parents), generator)
        z = self.options.spread * torch.randn(embedded.shape, generator=generator, device=embedded.device)
        return Outliers(to_pixels(cvae(z, embedded)), "decoded from mixed class embeddings", parents=parents)


class CMGOptions(MethodOptions, ClassMixedOptions):
    """Published defaults for CIFAR-10."""

    pseudo: int = option(128, "Generated images per step.", ge=1)
    tune_epochs: int = option(15, "Epochs of the head after the classifier's own.", common=True, ge=1)
    tune_lr: float = option(1e-4, "Peak learning rate of the head.", common=True, gt=0)


class CMGEnergyOptions(CMGOptions):
    """As `CMGOptions`."""

    weight: float = option(0.1, "Weight of the energy hinge.", common=True, ge=0)


class _CMG(Method):
    """What the two have in common: the classifier, then its head on images of the conditional VAE."""

    def stages(self, context: MethodContext) -> list[Stage]:
        o: CMGOptions = self.options
        pseudo = ClassMixed(o.pseudo, context.num_classes, spread=o.spread, cvae=o.cvae)
        head = Stage(
            "head",
            o.tune_epochs,
            o.tune_lr,
            pseudo,
            (self.regulariser(pseudo),),
            trains="head",
            optimizer="adam",
            weight_decay=0.0,
            warmup=0.0,
        )
        return context.after_classifier(head)

    def regulariser(self, pseudo: ClassMixed) -> Regulariser:
        """The loss of the pseudo images."""
        raise NotImplementedError


@register
class CMGSoftmax(_CMG):
    """A class of their own for images decoded from mixed class embeddings; the head alone learns it (CMG-softmax)."""

    name = "cmg_s"
    Options = CMGOptions
    head = "c_plus_1"
    heads = ("c_plus_1", "mlp_c_plus_1")
    score = "reject_class"

    def regulariser(self, pseudo: ClassMixed) -> Regulariser:
        return KPlusOneLoss()


@register
class CMGEnergy(_CMG):
    """High energy for images decoded from mixed class embeddings; the head alone learns it (CMG-energy)."""

    name = "cmg_e"
    Options = CMGEnergyOptions

    def regulariser(self, pseudo: ClassMixed) -> Regulariser:
        return EnergyHingeLoss(outliers=pseudo, weight=self.options.weight)
