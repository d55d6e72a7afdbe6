"""Dream-OOD and Dream-ID. Source: Du, Sun, Zhu & Li, NeurIPS 2023 (methods.md A3).

    dream_ood   L = CE + weight * R-ELR(g),  g = log sum_c relu(w_c) exp f_c,  outliers decoded from around the sparsest
                features of each class in the conditioning space of a diffusion model
    dream_id    L = CE over the union of the images and of more of each class, decoded from around its densest features

The images (`train.outliers.images.dream`) go into a store (``out/outliers/dream_ood``) before the classifier's first
step; ``outliers=`` of dream_ood names images or a store to take in its place. The diffusion model is trained on your
own images, or is Stable Diffusion (``diffusion="stable-diffusion"``) as published. The encoder and the link's
parameters are not part of the guard: its score is the energy (``score="energy_logistic"`` takes the link).

Defaults are those of CIFAR-100, but for these. (1) The link's slope starts positive, as in `vos`. (2) The store holds
one image per training image, at most 50,000; published are 1,000 per class, twice the training images. (3) Neighbours
and boundary shrink with small classes, noise grows in narrow conditioning spaces, and only as many embeddings are made
as there are images to decode (`train.outliers.conditioning.boundary`). ImageNet-100: sigma 0.03, select 200, weight 1,
20 epochs at lr 0.001 from a trained classifier (``init=``).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ..losses.energy_logistic import EnergyLogisticLoss
from ..losses.union_loss import UnionLoss
from ..outliers.base import Synthesiser
from ..outliers.images.dream import DreamIDOptions, DreamOptions
from ..outliers.store.drawing import Stored
from ..outliers.store.labelled import LabelledStore
from .base import Method, MethodContext, Stage, register
from .from_store import DecodedOptions, filled_store, given_or


class EnergyOptions(DecodedOptions):
    """As `DecodedOptions`. `weight`: beta. `start`: the share of the epochs before outliers join. `link_init`: see
    `train.losses.energy_logistic`."""

    weight: float = Field(default=2.5, ge=0)
    start: float = Field(default=0.0, ge=0, lt=1)
    link_init: Literal["positive", "random"] = "positive"


class Decoded(Method):
    """A classifier trained beside a store that the synthesiser of the same name fills."""

    def count(self, context: MethodContext) -> int:
        """Generated images per step."""
        return max(1, round(self.options.ratio * context.batch_size))

    def store(self, context: MethodContext, kind: type[Stored]) -> Stored:
        """The method's own images."""
        o = self.options
        return filled_store(self.name, o, context, self.count(context), at_once=o.sampling_batch, kind=kind)


class EnergyOnDecoded(Decoded):
    """Cross-entropy, and energies of the store's images told from those of in-distribution images by a learned link."""

    wants_outliers = "optional"
    teaches = "vos"  # the link of score "energy_logistic" is learned here too

    def stages(self, context: MethodContext) -> list[Stage]:
        o: Any = self.options
        regulariser = EnergyLogisticLoss(context.num_classes, weight=o.weight, init=o.link_init)
        start = int(o.start * context.epochs)
        outliers = self.outliers(context)
        return [Stage("classifier", context.epochs, context.lr, outliers, (regulariser,), start_epoch=start)]

    def outliers(self, context: MethodContext) -> Synthesiser:
        """What ``outliers=`` names, or the method's own."""
        return given_or(lambda: self.store(context, Stored), context, self.count(context), self.options.match)


class DreamOODMethodOptions(EnergyOptions, DreamOptions):
    """Options of the loss, the diffusion model, the encoder, the embeddings and the store."""


class DreamIDMethodOptions(DecodedOptions, DreamIDOptions):
    """Options of the diffusion model, the encoder, the embeddings and the store."""


@register
class DreamOODMethod(EnergyOnDecoded):
    """Images decoded from around the sparsest features of each class, held apart by energy (Du et al. 2023)."""

    name = "dream_ood"
    Options = DreamOODMethodOptions


@register
class DreamIDMethod(Decoded):
    """More images of each class, decoded from around its densest features; no outliers (Du et al. 2023)."""

    name = "dream_id"
    Options = DreamIDMethodOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        store = self.store(context, LabelledStore)
        return [Stage("classifier", context.epochs, context.lr, store, (UnionLoss(),), head_loss=False)]
