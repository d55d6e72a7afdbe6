"""Dream-OOD and Dream-ID: decoded noise around features in a diffusion model's conditioning space. Source: Du, Sun, Zhu
& Li, NeurIPS 2023 (methods.md A3).

    h: images -> conditioning space, cos(h(x), T(y)) largest for the own class      train.outliers.conditioning.encoder
    e = |T(c)| unit(z + sigma eps) around the sparsest (Dream-ID: densest) unit features z of class c       .boundary
    x~ = the diffusion model's image of e in place of the class's own embedding

``sampler=`` takes what the paper compares with in place of the boundary: "interpolation", "gaussian", "learnable".
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from guard.record import part

from ...generators.diffusion import DiffusionOptions
from ..base import PrepareContext, register_synthesiser
from ..conditioning.anchors import interpolated, moved, with_noise
from ..conditioning.boundary import BoundaryEmbeddingOptions, InlierEmbeddingOptions, boundary_embeddings
from ..conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..conditioning.table import Embeddings, class_generator, kept_embeddings
from ..resize import ResizeOptions
from .decoded import DecodedEmbeddings


class DreamOptions(DiffusionOptions, EncoderOptions, BoundaryEmbeddingOptions, ResizeOptions):
    """Options of the diffusion model, the encoder, the boundary and the resizing.

    Attributes:
        sampler: "boundary"; or embeddings made from the anchors: "interpolation" of two, "gaussian" noise on one, or
            an offset that is learned with the encoder ("learnable").
        alphas: weights of the first class, for "interpolation".
        noise: standard deviation per coordinate beside anchors of norm 0.39 in 768 dimensions, for "gaussian".
    """

    sampler: Literal["boundary", "interpolation", "gaussian", "learnable"] = "boundary"
    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(default=(0.3, 0.5, 0.7), min_length=1)
    noise: float = Field(default=0.03, gt=0)


class DreamIDOptions(DiffusionOptions, EncoderOptions, InlierEmbeddingOptions, ResizeOptions):
    """Options of the diffusion model, the encoder, the embeddings and the resizing."""


HOW = {
    "boundary": "around the sparsest features",
    "interpolation": "between two classes' embeddings",
    "gaussian": "a class's embedding with noise",
    "learnable": "a class's embedding with a learned offset",
}


class AroundFeatures(DecodedEmbeddings):
    """What both share: an encoder is trained, and embeddings lie around its features of each class."""

    Boundary: ClassVar[type[BoundaryEmbeddingOptions]]

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        encoder = trained_encoder(context, anchors, self.options)
        features = training_features(context, encoder, self.options, augmented=self.options.variant == "code")
        boundary = part(self.options, self.Boundary)
        return kept_embeddings(
            context,
            self.name,
            boundary,
            [*features, anchors],
            lambda: boundary_embeddings(features, anchors, boundary, context),
        )


@register_synthesiser
class DreamOOD(AroundFeatures):
    """Decoded noise around the sparsest features of a class in a diffusion model's conditioning space (Dream-OOD)."""

    name: ClassVar[str] = "dream_ood"
    source: ClassVar[str] = "Dream-OOD, Du et al., NeurIPS 2023"
    Options: ClassVar = DreamOptions
    Boundary: ClassVar = BoundaryEmbeddingOptions

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        o: DreamOptions = self.options
        if o.sampler == "boundary":
            return super().find(context, anchors)
        if o.sampler == "learnable":
            encoder = trained_encoder(context, anchors, o, learned=True)
            return moved(anchors, encoder.targets() - anchors)
        count, generator = len(context.data), class_generator(context, -1)
        if o.sampler == "interpolation":
            return interpolated(anchors, o.alphas, count, generator)
        return with_noise(anchors, o.noise, count, generator, scale_to_width=o.scale_to_width)

    def origin(self) -> str:
        return f"decoded from {HOW[self.options.sampler]}"


@register_synthesiser
class DreamID(AroundFeatures):
    """More images of the classes, for training: decoded from the densest places of their features (Dream-ID).

    In-distribution images, not outliers: `parents` are their classes. Method `dream_id` trains with them.
    """

    name: ClassVar[str] = "dream_id"
    source: ClassVar[str] = "Dream-ID, Du et al., NeurIPS 2023"
    Options: ClassVar = DreamIDOptions
    Boundary: ClassVar = InlierEmbeddingOptions

    def origin(self) -> str:
        return "decoded from around the densest features"
