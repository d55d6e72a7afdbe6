"""NCIS. Source: Doorenbos, Sznitman & Marquez-Neila, "Non-linear Outlier Synthesis", 2024 (methods.md A5).

    x' = images decoded from low-density points of the training images' own embeddings   (`train.synthesis.images.ncis`)
    L  = CE + weight * R-ELR(g),   g = log sum_c relu(w_c) exp f_c

Images first go into a store (``out/outliers/ncis``); ``outliers=`` names images or a store to take in its place. The
diffusion model is trained on your own images, or is Stable Diffusion (``diffusion="stable-diffusion"``) as published.

``variant="code"`` fits invariants as the official code does: another loss, other widths, K counted otherwise, and 5 %
of the variance in place of 2 %. The default is the paper's, which takes one step per batch where the code takes two.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..method import Context, Method, MethodOptions, Stage, Synthesiser
from ..registry import register
from ..regularizers.energy_logistic import EnergyLogisticLoss
from ..synthesis.images import image_source
from ..synthesis.images.ncis import NCISOptions
from ..synthesis.registry import create_synthesiser
from ..synthesis.store import Stored
from .from_store import shared_options

STORE = 6400  # images in the paper's ablations
PER_DRAW = 64


class NCISMethodOptions(MethodOptions, NCISOptions):
    """The paper's defaults.

    Attributes:
        weight: beta, of the energy term.
        ratio: outliers per in-distribution image.
        store_size: outliers to make. None: 6,400, or one per training image where these are fewer.
        start: the share of the epochs before outliers join.
        link_init: see `train.regularizers.energy_logistic`.
    """

    weight: float = Field(default=1.0, ge=0)
    ratio: float = Field(default=1.0, gt=0)
    store_size: int | None = Field(default=None, ge=1)
    start: float = Field(default=0.0, ge=0, lt=1)
    link_init: Literal["positive", "random"] = "positive"


@register
class NCIS(Method):
    """Images decoded from low-density embeddings of the training images, held apart by energy (Doorenbos 2024)."""

    name = "ncis"
    Options = NCISMethodOptions
    wants_outliers = "optional"
    teaches = "vos"

    def stages(self, context: Context) -> list[Stage]:
        o: NCISMethodOptions = self.options
        regulariser = EnergyLogisticLoss(context.num_classes, weight=o.weight, init=o.link_init)
        source = self.outliers(context, max(1, round(o.ratio * context.batch_size)))
        start = int(o.start * context.epochs)
        return [Stage("classifier", context.epochs, context.lr, source, (regulariser,), start_epoch=start)]

    def outliers(self, context: Context, count: int) -> Synthesiser:
        """What ``outliers=`` names, or the method's own store."""
        if context.outliers:
            return image_source(context.outliers, count, context.num_classes)
        total = self.options.store_size or min(STORE, sum(context.class_counts))
        options = shared_options(self.options, NCISOptions)
        return Stored(create_synthesiser("ncis", min(PER_DRAW, total), context.num_classes, **options), count, total)
