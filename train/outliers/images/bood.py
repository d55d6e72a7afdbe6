"""BOOD: decoded features that were pushed over the decision boundary. Source: Liao et al., ICML 2025 (methods.md B10).

h: images -> conditioning space, cos(h(x), T(y)) largest for the own class      train.outliers.conditioning.encoder
e: the features that cross to another class in the fewest steps, some steps beyond                       .crossing
x~ = the diffusion model's image of e in place of the class's own embedding
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from guard.record import part

from ...generators.diffusion import DiffusionOptions
from ..base import PrepareContext, register_synthesiser
from ..conditioning.crossing import CrossingOptions, crossing_embeddings
from ..conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..conditioning.table import Embeddings, kept_embeddings
from ..resize import ResizeOptions
from .decoded import DecodedEmbeddings


class BOODOptions(DiffusionOptions, EncoderOptions, CrossingOptions, ResizeOptions):
    """Options of the diffusion model, the encoder, the crossing and the resizing."""


@register_synthesiser
class BOOD(DecodedEmbeddings):
    """Decoded features that were pushed over the boundary to another class, in a diffusion model's space (BOOD)."""

    name: ClassVar[str] = "bood"
    source: ClassVar[str] = "BOOD, Liao et al., ICML 2025"
    Options: ClassVar = BOODOptions

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        encoder = trained_encoder(context, anchors, self.options)
        features = training_features(context, encoder, self.options)
        crossing = part(self.options, CrossingOptions)
        return kept_embeddings(
            context,
            self.name,
            crossing,
            [*features, anchors],
            lambda: crossing_embeddings(features, anchors, crossing, encoder.temperature),
        )

    def origin(self) -> str:
        return "decoded from features beyond the boundary to another class"
