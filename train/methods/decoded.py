"""What methods share whose images a diffusion model decodes into a store before the classifier's first step.

No method by itself: their options, and a classifier whose energies tell the store's images from the in-distribution
ones (Dream-OOD, BOOD, NCIS).
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import field_validator, model_validator

from guard.record import option

from ..losses.energy_logistic import EnergyLogisticLoss, LinkOptions
from ..outliers.base import Synthesiser
from ..outliers.decoded import PER_DECODING, DecodedImageOptions
from ..outliers.decoded_inliers import DecodedInliers
from ..outliers.matching import CODING, check_treated, checked
from ..outliers.store.drawing import Stored
from .base import Method, MethodContext, MethodOptions, Stage
from .from_store import filled_store, given_or, shared_options


class DecodedOptions(MethodOptions):
    """How many images are generated and used, and what they are matched in."""

    ratio: float = option(1.0, "Generated images per in-distribution image of a batch.", gt=0)
    store_size: int | None = option(
        None, "Images to generate; default one per training image, at most 50,000.", ge=1, common=True
    )
    match: tuple[str, ...] = option(
        (), "What each takes over from an in-distribution image: spectrum, colour, saturation, contrast ..."
    )

    @field_validator("match", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        return checked(names)


class InlierOptions(DecodedOptions):
    """As `DecodedOptions`, and what is done so that "generated" is not what is learned."""

    decoded_id: float = option(
        0.0,
        "Share of the in-distribution images, 0 to 1, in whose place the classifier sees one of their class that the "
        "diffusion model decodes from the class's own embedding, so that 'generated' is not what it learns.",
        ge=0,
        le=1,
    )
    treat_id: bool = option(
        False, "Whether half of the in-distribution images of every batch take over from others what match names."
    )

    @model_validator(mode="after")
    def _something_to_treat(self) -> Self:
        check_treated(self.treat_id, self.match)
        return self


def shown_inliers(name: str, options: InlierOptions, total: int | None) -> dict[str, Any]:
    """The arguments of a `Stage` that follow from `InlierOptions`.

    Args:
        name: of the outliers' store, which decoded in-distribution images lie beside.
        total: images in that store.
    """
    o: InlierOptions = options
    images = shared_options(o, DecodedImageOptions)
    made = DecodedInliers(o.decoded_id, name, total, o.match, images) if o.decoded_id else None
    return {"inliers": made, "match_inliers": tuple(n for n in o.match if n != CODING) if o.treat_id else ()}


class EnergyOptions(LinkOptions, InlierOptions):
    """As `DecodedOptions`, and the loss."""

    weight: float = option(2.5, "Weight beta of the energy loss.", ge=0, common=True)
    start: float = option(0.0, "Share of the epochs before outliers join, 0 to 1.", ge=0, lt=1)


class Decoded(Method):
    """A classifier trained beside a store that the synthesiser of the same name fills."""

    def store(self, context: MethodContext, kind: type[Stored]) -> Stored:
        """The method's own images."""
        o, count = self.options, context.per_step(self.options.ratio)
        return filled_store(self.name, o, context, count, at_once=PER_DECODING, total=self.total(context), kind=kind)

    def total(self, context: MethodContext) -> int | None:
        """How many images are generated; None: one per training image, at most 50,000."""
        total: int | None = self.options.store_size
        return total


class EnergyOnDecoded(Decoded):
    """Cross-entropy, and energies of the store's images told from those of in-distribution images by a learned link."""

    wants_outliers = "optional"
    own_outliers = Method.own_outliers | {"decoded_id"}
    teaches = "vos"  # the link of score "energy_logistic" is learned here too

    def stages(self, context: MethodContext) -> list[Stage]:
        o: Any = self.options
        regulariser = EnergyLogisticLoss(
            context.num_classes, weight=o.weight, init=o.link_init, energy=o.energy, link=o.link
        )
        start = context.epoch_at(o.start)
        outliers = self.outliers(context)
        shown = shown_inliers(self.name, o, self.total(context))
        return [Stage("classifier", context.epochs, context.lr, outliers, (regulariser,), start_epoch=start, **shown)]

    def default_score(self) -> str:
        return "energy_logistic" if self.options.energy == "weighted" else self.score

    def outliers(self, context: MethodContext) -> Synthesiser:
        """What ``outliers=`` names, or the method's own."""
        count = context.per_step(self.options.ratio)
        return given_or(lambda: self.store(context, Stored), context, count, self.options.match)
