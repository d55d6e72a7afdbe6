"""Embeddings around the boundary of a class's features. Source: Dream-OOD, Du et al., NeurIPS 2023.

    Z = h / |h| of one class;   v = unit(centre + sigma eps), the `keep` candidates of each centre with the farthest
    K-th neighbour in Z (`train.outliers.features.knn_boundary`);   e = |T(c)| v

With `inlier` centres and candidates are those with the nearest K-th neighbour (Dream-ID).
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from guard.record import Record, option

from ...engine.progress import progress_bar
from ..base import PrepareContext
from ..features.knn_boundary import BoundaryOptions, boundary_outliers, check_at_most
from .encoder import Features
from .table import Embeddings, Values, class_generator, width_factor

MOST_REPEATS = 100  # by default, as published


class BoundaryEmbeddingOptions(Record):
    """What is drawn around the features of a class; the defaults are Dream-OOD's for CIFAR-100."""

    inlier: ClassVar[bool] = False

    k: int = option(
        300, "Which neighbour measures sparseness, in a class of class_size images; its share of a smaller one.", ge=1
    )
    select: int = option(
        50, "Features that count as boundary, in a class of class_size images; their share of a smaller one.", ge=1
    )
    class_size: int = option(500, "Images per class that k and select are meant for.", ge=1)
    features_per_class: int = option(1000, "Features of a class that are looked at, the first ones.", ge=1)
    pick: int = option(50, "Centres per draw, at most select.", ge=1)
    n_noise: int = option(1500, "Noise vectors per draw, shared by its centres.", ge=1)
    sigma: float = option(0.07, "Noise per coordinate, on features of unit length.", gt=0)
    sigma_is: Literal["std", "variance"] = option(
        "std", "What sigma is; the paper calls it the variance, its code multiplies by it."
    )
    keep: int = option(2, "Candidates kept per centre.", ge=1)
    repeats: int | None = option(
        None,
        "Draws; default as many as give an embedding for each image that is decoded, or for each image of the class "
        "where these are more; at most 100 as published.",
        ge=1,
    )
    augmented: bool = option(
        False, "Whether features are those of augmented images, as in the official code, in place of the images' own."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_at_most(self, ("pick", "select"), ("keep", "n_noise"), ("k", "class_size"), ("select", "class_size"))
        return self

    def fitted(
        self, images: int, width: int, scale_to_width: bool = True, decoded: int | None = None
    ) -> BoundaryOptions:
        """The sampler's options for a class of so many images, in a space of that width.

        Args:
            decoded: images that will be decoded for the class, where known.
        """
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
            sigma=self.standard_deviation(width, scale_to_width),
            keep=self.keep,
            repeats=self.repeats or min(MOST_REPEATS, -(-max(images, decoded or 0) // (pick * self.keep))),
            renormalise=True,
            inlier=self.inlier,
        )

    def standard_deviation(self, width: int, scale_to_width: bool = True) -> float:
        """Of the noise per coordinate, in a space of that width (`boundary_embeddings`)."""
        deviation = self.sigma if self.sigma_is == "std" else self.sigma**0.5
        return deviation * (width_factor(width) if scale_to_width else 1.0)


class InlierEmbeddingOptions(BoundaryEmbeddingOptions):
    """As `BoundaryEmbeddingOptions`, in the densest places and with less noise; the defaults are Dream-ID's."""

    inlier: ClassVar[bool] = True

    select: int = option(
        1000, "Features that count as dense, in a class of class_size images; their share of a smaller one.", ge=1
    )
    class_size: int = option(1000, "Images per class that k and select are meant for.", ge=1)
    pick: int = option(100, "Centres per draw, at most select.", ge=1)
    sigma: float = option(0.01, "Noise per coordinate, on features of unit length.", gt=0)
    keep: int = option(1, "Candidates kept per centre.", ge=1)


class ScaleOptions(Record):
    """Whether published lengths are carried over to a conditioning space of another width."""

    scale_to_width: bool = option(
        True,
        "Whether noise and steps per coordinate are taken times sqrt(768 / width), so that they are as long in a "
        "conditioning space of another width.",
    )


def boundary_embeddings(
    features: Features,
    anchors: Tensor,
    options: BoundaryEmbeddingOptions,
    context: PrepareContext,
    *,
    scale_to_width: bool = True,
    decoded: int | None = None,
) -> tuple[Embeddings, Values]:
    """Embeddings around each class, of its anchor's length; and the values used for each class.

    Args:
        features: of the training images, of any length; every class has some.
        anchors: T (C, E).
        scale_to_width: take sigma times sqrt(768 / E), so that the noise is as long in a conditioning space of another
            width E: its length decides how far out the embeddings lie.
        decoded: images that will be decoded for each class, where known; more of them only add embeddings at the end of
            each class's.
    """
    made, classes, values = [], [], []
    with progress_bar("boundary", len(anchors)) as advance:
        for c, anchor in enumerate(anchors):
            own = features.data[features.labels == c]
            fitted = options.fitted(len(own), anchors.shape[1], scale_to_width, decoded)
            unit_rows = boundary_outliers(own[: options.features_per_class], fitted, class_generator(context, c))
            made.append((unit_rows * torch.linalg.vector_norm(anchor)).cpu())
            classes.append(torch.full((len(unit_rows),), c))
            values.append({"images": len(own), **fitted.model_dump(include=RECORDED)})
            advance()
    labels = torch.cat(classes)
    return Embeddings(torch.cat(made), labels, labels[:, None]), {"per_class": values}


RECORDED = {"k", "select", "pick", "n_noise", "sigma", "keep", "repeats"}
