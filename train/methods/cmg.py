"""CMG, class-mixed generation. Source: Wang, Shao, Lin, Hu & Liu, ECML-PKDD 2022 (methods.md B12).

    x~ = dec(z, e), e mixed by coordinates of two classes' embeddings, z ~ N(0, s^2 I)      a conditional VAE
    cmg_s:  CE over C + 1 classes, pseudo images the last one;                              score log p_{C+1}
    cmg_e:  CE + weight * energy hinge, margins at the 20th percentile of the in-distribution energies and the 80th
            of the pseudo images' energies before tuning;                                   score energy

The classifier is trained first (or comes from ``init=``); then its backbone is frozen and the head alone learns, by
Adam. Labels may change a little, features do not. Two different classes are mixed; the official code may mix one with
itself. The learning rate falls by a cosine, and the weights of the last step are kept; the code takes the best AUROC
seen on its test sets.
"""

from __future__ import annotations

from pydantic import Field

from ..losses.base import Regulariser
from ..losses.energy_hinge import EnergyHingeLoss
from ..losses.k_plus_1 import KPlusOneLoss
from ..outliers.images.cmg import ClassMixed
from .base import Method, MethodContext, MethodOptions, Stage, register


class CMGOptions(MethodOptions, ClassMixed.Options):
    """Published defaults for CIFAR-10. `pseudo`: generated images per step."""

    pseudo: int = Field(default=128, ge=1)
    head_epochs: int = Field(default=15, ge=1)
    head_lr: float = Field(default=1e-4, gt=0)


class CMGEnergyOptions(CMGOptions):
    """`weight`: of the energy hinge."""

    weight: float = Field(default=0.1, ge=0)


class _CMG(Method):
    """What the two have in common: the classifier, then its head on images of the conditional VAE."""

    def stages(self, context: MethodContext) -> list[Stage]:
        o: CMGOptions = self.options
        mine = {name: getattr(o, name) for name in ClassMixed.Options.model_fields}
        pseudo = ClassMixed(o.pseudo, context.num_classes, **mine)
        head = Stage(
            "head",
            o.head_epochs,
            o.head_lr,
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
    heads = ("c_plus_1",)
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
