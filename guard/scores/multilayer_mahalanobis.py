"""Mahalanobis distance of what several layers say of an image, side by side (ours).

    z = [ u(m_1), u(s_1), .., u(m_L), u(s_L), u(h) ],   u(x) = x / |x|
    ood_score = min_c (z - mu_c)' P (z - mu_c)

m_l and s_l are the means and standard deviations over positions of each channel of layer l, h the pooled features, and
P is the inverse of the shrunk covariance of z around the class means, as in `mahalanobis`: so a channel of a low layer
counts by how unusual it is together with what the last one says. The last stage is read by h alone: its maps as well
detect no better, and tuning with outliers spoils them for what is far. Low layers know low-level statistics (sharpness,
contrast, texture), the last one objects.

Source: ours, after Lee et al., NeurIPS 2018, who have a distance for each layer's means, and OOD images to weigh them
by. Vectors of unit length are Mueller & Hein, ICML 2025; deviations, and one covariance for all, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..record import option
from .base import Need, register_score
from .class_covariance import CovarianceOptions, radially_normalised
from .layer_statistics import given_summary, means_and_deviations
from .mahalanobis import Mahalanobis


@register_score
class MultilayerMahalanobis(Mahalanobis):
    """ood_score = min_c (z - mu_c)' P (z - mu_c) >= 0, z what each layer's channels are on the whole, and h.

    Its `feature_map` is what `summarise` made of its layers, side by side: (N, K).
    """

    name: ClassVar[str] = "multilayer_mahalanobis"
    equation: ClassVar[str] = "min_c (z - mu_c)' P (z - mu_c), z = [u(m_1), u(s_1), ..., u(h)], u(x) = x / |x|"
    source: ClassVar[str] = "ours, after Lee et al., NeurIPS 2018"
    needs: ClassVar[tuple[Need, ...]] = ("features", "layer maps")
    uses_map = True

    class Options(CovarianceOptions):
        normalise: float = option(
            1.0,
            "Exponent b of x / |x|^b for each of the vectors that are put side by side: 1 puts them on unit spheres, 0 "
            "leaves them as they are.",
            common=True,
            ge=0,
            le=1,
        )
        layers: tuple[str, ...] = option(
            (),
            "Names of the modules whose outputs are read; by default the ends of all stages but the last.",
            common=True,
        )
        channels: int = option(
            256, "At most so many channels of a layer are read, at equal distances; the features are read whole.", ge=1
        )

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.layers = self.options.layers

    def choose(self, ends: tuple[str, ...]) -> tuple[str, ...]:
        """All but the last, of which the features are made; that one where there is no other."""
        return ends[:-1] or ends

    def watch(self, layers: Sequence[str], widths: Sequence[int]) -> None:
        self.layers = tuple(layers)
        self.options = self.options.model_copy(update={"layers": self.layers})  # saved with the guard

    def summarise(self, layer_map: Tensor) -> Tensor:
        """(N, 2 k): the normalised means, and the normalised deviations."""
        both = means_and_deviations(layer_map, self.options.channels)
        return torch.cat([radially_normalised(part, self.options.normalise) for part in both], -1)

    def read(self, features: Tensor, feature_map: Tensor | None) -> Tensor:
        summary = given_summary(feature_map, self.name).to(features.dtype)
        return torch.cat([summary, super().read(features, None)], -1)
