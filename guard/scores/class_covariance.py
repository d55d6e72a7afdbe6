"""What the two Mahalanobis scores share: class means and the covariance around them, gathered in one pass."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError
from ..heads import LastLayer, unit
from ..record import Record, option
from .base import Need, Score, ScoreOptions
from .moments import ClassMoments, whitening_matrix


class CovarianceOptions(ScoreOptions):
    """How features are normalised, and how far covariances are shrunk."""

    normalise: float = option(
        0.0,
        "Exponent b of z = h / |h|^b, which takes the place of h: 0 leaves features as they are, 1 puts them on the "
        "unit sphere (Mahalanobis++).",
        common=True,
        ge=0,
        le=1,
    )
    shrinkage: float = option(
        1e-4, "Share, in [0, 1], of a multiple of the identity in covariances.", common=True, ge=0, le=1
    )


def radially_normalised(features: Tensor, exponent: float) -> Tensor:
    """h / |h|^exponent (N, D), zero rows as they are; exponent in [0, 1]."""
    if exponent == 0:
        return features
    if exponent == 1:
        return unit(features)
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    normalised: Tensor = features / length.clamp_min(1e-12).pow(exponent)
    return normalised


class ClassCovarianceScore(Score):
    """A score of features that are Gaussian around their class's mean, under one shared covariance."""

    needs: ClassVar[tuple[Need, ...]] = ("features",)
    needs_fit: ClassVar[bool] = True
    Options: ClassVar[type[Record]] = CovarianceOptions

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._moments: ClassMoments | None = None

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        self._moments = None
        self._num_classes = num_classes

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        z = self.read(features.detach().double(), feature_map)
        if self._moments is None:
            self._moments = ClassMoments(self._num_classes, z.shape[1], device=features.device)
        self._moments.update(z, labels)

    def read(self, features: Tensor, feature_map: Tensor | None) -> Tensor:
        """What the Gaussians are of, (N, D): z = h / |h|^b; zero rows stay zero."""
        return radially_normalised(features, self.options.normalise)

    def gathered(self) -> tuple[ClassMoments, Tensor]:
        """The moments, which are let go of, and A (D, D) that whitens features: A A' = (shrunk covariance)^-1."""
        if self._moments is None:
            raise DataError(f"score {self.name!r} saw no data to fit on")
        moments, self._moments = self._moments, None
        return moments, whitening_matrix(moments.covariance(), self.options.shrinkage, self.name)
