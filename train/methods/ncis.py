"""NCIS. Source: Doorenbos, Sznitman & Marquez-Neila, "Non-linear Outlier Synthesis", 2024 (methods.md A5).

    x' = images decoded from low-density points of the training images' own embeddings   (`train.outliers.images.ncis`)
    L  = CE + weight * R-ELR(g),   g = log sum_c relu(w_c) exp f_c

Images first go into a store (``out/outliers/ncis``); ``outliers=`` names images or a store to take in its place. The
diffusion model is trained on your own images, or is Stable Diffusion (``diffusion="stable-diffusion"``) as published.

``variant="code"`` fits invariants as the official code does: another loss, other widths, K counted otherwise, and 5 %
of the variance in place of 2 %. The default is the paper's, which takes one step per batch where the code takes two.
"""

from __future__ import annotations

from pydantic import Field

from ..outliers.images.ncis import NCISOptions
from ..outliers.store.drawing import Stored
from .base import MethodContext, register
from .dream import EnergyOnDecoded, EnergyOptions
from .from_store import filled_store

STORE = 6400  # images in the paper's ablations
PER_DRAW = 64


class NCISMethodOptions(EnergyOptions, NCISOptions):
    """As `EnergyOptions`. `weight`: the paper's 1. `store_size`: None: 6,400, or one per training image where these are
    fewer."""

    weight: float = Field(default=1.0, ge=0)


@register
class NCIS(EnergyOnDecoded):
    """Images decoded from low-density embeddings of the training images, held apart by energy (Doorenbos 2024)."""

    name = "ncis"
    Options = NCISMethodOptions

    def store(self, context: MethodContext, kind: type[Stored]) -> Stored:
        o: NCISMethodOptions = self.options
        total = o.store_size or min(STORE, sum(context.class_counts))
        return filled_store(self.name, o, context, self.count(context), at_once=PER_DRAW, total=total, kind=kind)
