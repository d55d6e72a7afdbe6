"""BOOD, boundary-based OOD data generation. Source: Liao, Yang, Zhao, Luo & Zhao, ICML 2025 (methods.md B10).

    L = CE + weight * R-ELR(g),   outliers decoded from features that were pushed over the decision boundary of the
                                  cosine classifier in the conditioning space of a diffusion model

As `dream_ood` but for the embeddings (`train.outliers.images.bood`), and with its weight; there is no official code.
"""

from __future__ import annotations

from ..outliers.images.bood import BOODOptions
from .base import register
from .dream import EnergyOnDecoded, EnergyOptions


class BOODMethodOptions(EnergyOptions, BOODOptions):
    """Options of the loss, the diffusion model, the encoder, the embeddings and the store."""


@register
class BOODMethod(EnergyOnDecoded):
    """Images decoded from features pushed over the boundary to another class, held apart by energy (ICML 2025)."""

    name = "bood"
    Options = BOODMethodOptions
