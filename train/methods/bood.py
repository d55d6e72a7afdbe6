"""BOOD, boundary-based OOD data generation. Source: Liao, Yang, Zhao, Luo & Zhao, ICML 2025.

    h: images -> conditioning space, cos(h(x), T(y)) largest for the own class      train.outliers.conditioning.encoder
    e: the features that cross to another class in the fewest steps, some steps beyond                       .crossing
    x~ = the diffusion model's image of e in place of the class's own embedding
    L = CE + weight * R-ELR(g),   g = logsumexp f

As `dream_ood` but for the embeddings, and with its weight; there is no official code.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from guard.record import option, part

from ..outliers.base import PrepareContext, register_synthesiser
from ..outliers.conditioning.crossing import CrossingOptions, crossing_embeddings
from ..outliers.conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..outliers.conditioning.table import Embeddings, kept_embeddings
from ..outliers.decoded import DecodedEmbeddings, DecodedImageOptions
from .base import register
from .decoded import EnergyOnDecoded, EnergyOptions


class BOODImageOptions(DecodedImageOptions, CrossingOptions):
    """Options of the images."""

    encoder: EncoderOptions = option(EncoderOptions(), "The image encoder.")


class BOODOptions(EnergyOptions, BOODImageOptions):
    """Options of the images and of their use."""


@register_synthesiser
class BOODImages(DecodedEmbeddings):
    """Decoded features that were pushed over the boundary to another class, in a diffusion model's space (BOOD)."""

    name: ClassVar[str] = "bood"
    source: ClassVar[str] = "BOOD, Liao et al., ICML 2025"
    Options: ClassVar = BOODImageOptions

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        o: BOODImageOptions = self.options
        encoder = trained_encoder(context, anchors, o.encoder)
        features, crossing = training_features(context, encoder, o.encoder), part(o, CrossingOptions)
        return kept_embeddings(
            context,
            self.name,
            crossing,
            [*features, anchors],
            lambda: crossing_embeddings(features, anchors, crossing, encoder.temperature),
        )

    def origin(self) -> str:
        return "decoded from features beyond the boundary to another class"


@register
class BOOD(EnergyOnDecoded):
    """Images decoded from features pushed over the boundary to another class, held apart by energy (ICML 2025)."""

    name = "bood"
    Options = BOODOptions
    makers: ClassVar[tuple[str, ...]] = ("bood",)
