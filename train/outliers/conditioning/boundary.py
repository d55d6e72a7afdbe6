"""Embeddings around the boundary of a class's features. Source: Dream-OOD, Du et al., NeurIPS 2023 (methods.md A3).

    Z = h / |h| of one class;   v = unit(centre + sigma eps), the `keep` candidates of each centre with the farthest
    K-th neighbour in Z (`train.outliers.features.knn_boundary`);   e = |T(c)| v

With `inlier` centres and candidates are those with the nearest K-th neighbour (Dream-ID).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from guard.record import Record

from ...engine.progress import progress_bar
from ..base import PrepareContext
from ..features.knn_boundary import BoundaryOptions, boundary_outliers, check_at_most
from .encoder import Features
from .table import Embeddings, Values, class_generator, width_factor

MOST_REPEATS = 100  # by default, as published


class BoundaryEmbeddingOptions(Record):
    """What is drawn around the features of a class; the defaults are Dream-OOD's for CIFAR-100.

    Attributes:
        k, select: which neighbour measures sparseness, and how many features count as boundary, in a class of
            `class_size` images. In a smaller class both keep their share of it.
        class_size: the images per class that k and select are meant for.
        features_per_class: features of a class that are looked at, the first ones; published as many as `class_size`.
        pick: centres per draw, at most `select`.
        n_noise: noise vectors per draw, shared by its centres.
        sigma: of the noise, per coordinate, on features of unit length.
        sigma_is: what sigma is; the paper calls it the variance, its code multiplies by it.
        keep: candidates kept per centre.
        repeats: draws. None: as many as give an embedding for each image of the class, at most 100. (Published: 100,
            of whose embeddings a tenth are decoded.)
        scale_to_width: take sigma times sqrt(768 / E), so that the noise is as long in a conditioning space of another
            width E: its length decides how far out the embeddings lie.
        variant: "code" keeps the candidates that the official code keeps, and looks at features of augmented images.
    """

    inlier: ClassVar[bool] = False

    k: int = Field(default=300, ge=1)
    select: int = Field(default=50, ge=1)
    class_size: int = Field(default=500, ge=1)
    features_per_class: int = Field(default=1000, ge=1)
    pick: int = Field(default=50, ge=1)
    n_noise: int = Field(default=1500, ge=1)
    sigma: float = Field(default=0.07, gt=0)
    sigma_is: Literal["std", "variance"] = "std"
    keep: int = Field(default=2, ge=1)
    repeats: int | None = Field(default=None, ge=1)
    scale_to_width: bool = True
    variant: Literal["paper", "code"] = "paper"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_at_most(self, ("pick", "select"), ("keep", "n_noise"), ("k", "class_size"), ("select", "class_size"))
        return self

    def fitted(self, images: int, width: int) -> BoundaryOptions:
        """The sampler's options for a class of so many images, in a space of that width."""
        n = min(images, self.features_per_class)
        share = min(1.0, n / self.class_size)
        k = min(n, max(2, round(self.k * share)))
        select = min(n, max(1, round(self.select * share)))
        pick = min(self.pick, select)
        return BoundaryOptions(
            k=k,
            select=select,
            pick=pick,
            n_noise=self.n_noise,
            sigma=self.standard_deviation(width),
            keep=self.keep,
            repeats=self.repeats or min(MOST_REPEATS, -(-images // (pick * self.keep))),
            renormalise=True,
            inlier=self.inlier,
            variant=self.variant,
        )

    def standard_deviation(self, width: int) -> float:
        """Of the noise per coordinate, in a space of that width."""
        deviation = self.sigma if self.sigma_is == "std" else self.sigma**0.5
        return deviation * (width_factor(width) if self.scale_to_width else 1.0)


class InlierEmbeddingOptions(BoundaryEmbeddingOptions):
    """As `BoundaryEmbeddingOptions`, in the densest places and with less noise; the defaults are Dream-ID's."""

    inlier: ClassVar[bool] = True

    select: int = Field(default=1000, ge=1)
    class_size: int = Field(default=1000, ge=1)
    pick: int = Field(default=100, ge=1)
    sigma: float = Field(default=0.01, gt=0)
    keep: int = Field(default=1, ge=1)


def boundary_embeddings(
    features: Features, anchors: Tensor, options: BoundaryEmbeddingOptions, context: PrepareContext
) -> tuple[Embeddings, Values]:
    """Embeddings around each class, of its anchor's length; and the values used for each class.

    Args:
        features: of the training images, of any length; every class has some.
        anchors: T (C, E).
    """
    made, classes, values = [], [], []
    with progress_bar("boundary", len(anchors)) as advance:
        for c, anchor in enumerate(anchors):
            own = features.data[features.labels == c]
            fitted = options.fitted(len(own), anchors.shape[1])
            unit_rows = boundary_outliers(own[: options.features_per_class], fitted, class_generator(context, c))
            made.append(unit_rows * torch.linalg.vector_norm(anchor))
            classes.append(torch.full((len(unit_rows),), c, device=unit_rows.device))
            values.append({"images": len(own), **fitted.model_dump(include=RECORDED)})
            advance()
    labels = torch.cat(classes)
    return Embeddings(torch.cat(made), labels, labels[:, None]), {"per_class": values}


RECORDED = {"k", "select", "pick", "n_noise", "sigma", "keep", "repeats"}
