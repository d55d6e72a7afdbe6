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

from ..method import Context, MethodOptions, Synthesiser
from ..registry import register
from ..synthesis.images.ncis import NCISOptions
from .dream import EnergyOnDecoded
from .from_store import filled_store, given_or

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
class NCIS(EnergyOnDecoded):
    """Images decoded from low-density embeddings of the training images, held apart by energy (Doorenbos 2024)."""

    name = "ncis"
    Options = NCISMethodOptions

    def outliers(self, context: Context) -> Synthesiser:
        o: NCISMethodOptions = self.options
        count = self.count(context)
        total = o.store_size or min(STORE, sum(context.class_counts))
        return given_or(lambda: filled_store("ncis", o, context, count, at_once=PER_DRAW, total=total), context, count)
