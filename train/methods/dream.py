"""Dream-OOD and Dream-ID. Source: Du, Sun, Zhu & Li, NeurIPS 2023.

    h: images -> conditioning space, cos(h(x), T(y)) largest for the own class      train.outliers.conditioning.encoder
    e = |T(c)| unit(z + sigma eps) around the sparsest (Dream-ID: densest) unit features z of class c       .boundary
    x~ = the diffusion model's image of e in place of the class's own embedding

    dream_ood   L = CE + weight * R-ELR(g),  g = logsumexp f,  x~ the outliers
    dream_id    L = CE over the union of the images and of more of each class, x~

The images go into a store (``out/outliers/dream_ood``) before the classifier's first step; ``outliers=`` of dream_ood
names images or a store to take in its place. The diffusion model is trained on your own images, or is Stable Diffusion
as published. The encoder is not part of the guard, and neither is the link: its score is the energy, whose order a
rising line keeps (``score="energy_logistic"`` takes the link; ``link="mlp"`` is that of the official code for
ImageNet-100). ``sampler=`` takes what the paper compares with in place of the boundary: "interpolation", "gaussian",
"learnable".

Defaults are those of CIFAR-100, but for these. (1) The link's slope starts positive, as in `vos`. (2) The store holds
one image per training image, at most 50,000; published are 1,000 per class, twice the training images. (3) Neighbours
and boundary shrink with small classes, noise grows in narrow conditioning spaces, and only as many embeddings are made
as there are images to decode (`train.outliers.conditioning.boundary`). ImageNet-100: sigma 0.03, select 200, weight 1,
20 epochs at lr 0.001 from a trained classifier (``init=``).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from guard.record import option

from ..losses.union_loss import UnionLoss
from ..outliers.base import PrepareContext, register_synthesiser
from ..outliers.conditioning.anchors import interpolated, moved, with_noise
from ..outliers.conditioning.boundary import (
    BoundaryEmbeddingOptions,
    InlierEmbeddingOptions,
    ScaleOptions,
    boundary_embeddings,
)
from ..outliers.conditioning.encoder import EncoderOptions, trained_encoder, training_features
from ..outliers.conditioning.table import Embeddings, class_generator, kept_embeddings
from ..outliers.decoded import DecodedEmbeddings, DecodedImageOptions
from ..outliers.store.labelled import LabelledStore
from .base import MethodContext, Stage, register
from .decoded import Decoded, DecodedOptions, EnergyOnDecoded, EnergyOptions


class DreamOODImageOptions(DecodedImageOptions):
    """Options of the images."""

    sampler: Literal["boundary", "interpolation", "gaussian", "learnable"] = option(
        "boundary",
        "'boundary', or embeddings made from those of the classes: 'interpolation' of two, 'gaussian' noise on one, or "
        "an offset learned with the encoder ('learnable').",
    )
    encoder: EncoderOptions = option(
        EncoderOptions(), "The image encoder.", read_if={"sampler": ("boundary", "learnable")}
    )
    boundary: BoundaryEmbeddingOptions = option(
        BoundaryEmbeddingOptions(), "Where embeddings lie around features.", read_if={"sampler": "boundary"}
    )
    alphas: tuple[Annotated[float, Field(ge=0, le=1)], ...] = option(
        (0.3, 0.5, 0.7),
        "Weights of the first class, each 0 to 1.",
        min_length=1,
        read_if={"sampler": "interpolation"},
    )
    noise: float = option(
        0.03,
        "Noise per coordinate, beside class embeddings of norm 0.39 in 768 dimensions.",
        gt=0,
        read_if={"sampler": "gaussian"},
    )
    scale_to_width: bool = option(
        True,
        "Whether noise per coordinate is taken times sqrt(768 / width), so that it is as long in a conditioning space "
        "of another width.",
        read_if={"sampler": ("boundary", "gaussian")},
    )


class DreamIDImageOptions(DecodedImageOptions, ScaleOptions):
    """Options of the images."""

    encoder: EncoderOptions = option(EncoderOptions(), "The image encoder.")
    boundary: InlierEmbeddingOptions = option(InlierEmbeddingOptions(), "Where embeddings lie around features.")


class DreamOODOptions(EnergyOptions, DreamOODImageOptions):
    """Options of the images and of their use."""


class DreamIDOptions(DecodedOptions, DreamIDImageOptions):
    """Options of the images and of their use."""


HOW = {
    "boundary": "around the sparsest features",
    "interpolation": "between two classes' embeddings",
    "gaussian": "a class's embedding with noise",
    "learnable": "a class's embedding with a learned offset",
}


class AroundFeatures(DecodedEmbeddings):
    """What both share: an encoder is trained, and embeddings lie around its features of each class.

    There are as many embeddings of each class as images to decode, and a store that grows gets further ones: images are
    drawn from the first so many, so that those it has stay what they would be.
    """

    def first_rows(self) -> int | None:
        return self.per_class()

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        o = self.options
        encoder = trained_encoder(context, anchors, o.encoder)
        features = training_features(context, encoder, o.encoder, augmented=o.boundary.augmented)
        decoded = None if o.boundary.repeats else self.per_class()
        return kept_embeddings(
            context,
            self.name,
            o.boundary,
            [*features, anchors, torch.tensor(o.scale_to_width), torch.tensor(decoded or 0)],
            lambda: boundary_embeddings(
                features, anchors, o.boundary, context, scale_to_width=o.scale_to_width, decoded=decoded
            ),
        )


@register_synthesiser
class DreamOODImages(AroundFeatures):
    """Decoded noise around the sparsest features of a class in a diffusion model's conditioning space (Dream-OOD)."""

    name: ClassVar[str] = "dream_ood"
    source: ClassVar[str] = "Dream-OOD, Du et al., NeurIPS 2023"
    Options: ClassVar = DreamOODImageOptions

    def find(self, context: PrepareContext, anchors: Tensor) -> Embeddings:
        o: DreamOODImageOptions = self.options
        if o.sampler == "boundary":
            return super().find(context, anchors)
        if o.sampler == "learnable":
            encoder = trained_encoder(context, anchors, o.encoder, learned=True)
            return moved(anchors, encoder.targets() - anchors)
        count, generator = max(len(context.data), self.total or 0), class_generator(context, -1)
        if o.sampler == "interpolation":
            return interpolated(anchors, o.alphas, count, generator)
        return with_noise(anchors, o.noise, count, generator, scale_to_width=o.scale_to_width)

    def origin(self) -> str:
        return f"decoded from {HOW[self.options.sampler]}"


@register_synthesiser
class DreamIDImages(AroundFeatures):
    """More images of the classes, for training: decoded from the densest places of their features (Dream-ID).

    In-distribution images, not outliers: `parents` are their classes. Method `dream_id` trains with them.
    """

    name: ClassVar[str] = "dream_id"
    source: ClassVar[str] = "Dream-ID, Du et al., NeurIPS 2023"
    in_distribution: ClassVar[bool] = True
    Options: ClassVar = DreamIDImageOptions

    def origin(self) -> str:
        return "decoded from around the densest features"


@register
class DreamOOD(EnergyOnDecoded):
    """Images decoded from around the sparsest features of each class, held apart by energy (Du et al. 2023)."""

    name = "dream_ood"
    Options = DreamOODOptions
    makers: ClassVar[tuple[str, ...]] = ("dream_ood",)


@register
class DreamID(Decoded):
    """More images of each class, decoded from around its densest features; no outliers (Du et al. 2023)."""

    name = "dream_id"
    Options = DreamIDOptions

    def stages(self, context: MethodContext) -> list[Stage]:
        store = self.store(context, LabelledStore)
        return [Stage("classifier", context.epochs, context.lr, store, (UnionLoss(),), head_loss=False)]
