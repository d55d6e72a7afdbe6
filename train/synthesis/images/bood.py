"""BOOD: decoded features that were pushed over the decision boundary. Source: Liao et al., ICML 2025 (methods.md B10).

h: images -> conditioning space, cos(h(x), T(y)) largest for the own class      train.synthesis.embeddings.encoder
e: the features that cross to another class in the fewest steps, some steps beyond                       .crossing
x~ = the diffusion model's image of e in place of the class's own embedding
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from guard.options import part

from ...diffusion import DiffusionOptions
from ...method import Setting
from ..embeddings.crossing import CrossingOptions, crossing_embeddings
from ..embeddings.encoder import EncoderOptions, trained_encoder, training_features
from ..embeddings.table import Embeddings, kept_embeddings
from ..registry import register_synthesiser
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

    def find(self, setting: Setting, anchors: Tensor) -> Embeddings:
        encoder = trained_encoder(setting, anchors, self.options)
        features = training_features(setting, encoder, self.options)
        crossing = part(self.options, CrossingOptions)
        return kept_embeddings(
            setting,
            self.name,
            crossing,
            [*features, anchors],
            lambda: crossing_embeddings(features, anchors, crossing, encoder.temperature),
        )

    def origin(self) -> str:
        return "decoded from features beyond the boundary to another class"
