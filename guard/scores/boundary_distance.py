"""Scores of where features lie between the training mean and the last layer's decision boundaries.

    fdbd   - 1/(C - 1) sum_{c != y} (f_y - f_c) / |w_y - w_c| / |h - m|    y = argmax f, m the mean of training features
    nci    - <w_y, h - m> / |h - m| - alpha |h|_1

Source: Liu & Qin, ICML 2024 (fDBD), and Liu & Qin, CVPR 2025 (NCI). (f_y - f_c) / |w_y - w_c| is the distance from h to
the boundary between the predicted class and c. A cosine layer has boundaries on the unit sphere: there h is at unit
length, in the mean as well, and w_c is s w_c / |w_c|.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import DataError, ModelError
from ..heads import LastLayer
from ..heads.boundary import boundary_distance, inverse_gaps
from ..record import Record, option
from .base import Need, NoOptions, Score, ScoreOptions, register_score, unfitted
from .relogits import flat_layer, layer_input

TINY = 1e-12  # a length below it is none


class CentredScore(Score):
    """A score of features around their training mean, and of the last layer."""

    needs: ClassVar[tuple[Need, ...]] = ("logits", "features", "weights")
    needs_fit: ClassVar[bool] = True
    centre: Tensor
    bias: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("centre", "bias"):
            self.register_buffer(name, torch.zeros(0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None:
            raise ModelError(
                f"score {self.name!r} needs the weights of a last linear or cosine layer; use 'knn' or 'mahalanobis'"
            )
        weight, self.bias = flat_layer(last_layer)
        self.hold(weight)
        self.centre = weight.new_zeros(0)
        self._sum, self._count = weight.new_zeros(num_features, dtype=torch.float64), 0

    def hold(self, weight: Tensor) -> None:
        """Keep what `forward` needs of the layer's weights (C, D)."""
        raise NotImplementedError(f"{type(self).__name__} must define hold")

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        self._sum += layer_input(features.detach().double(), self.bias).sum(0)
        self._count += len(features)

    def finish(self) -> None:
        if not self._count:
            raise DataError(f"score {self.name!r} saw no data to fit on")
        self.centre = (self._sum / self._count).float()
        del self._sum

    def around_mean(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """h as the layer sees it (N, D), h - m (N, D), and its length (N,), which is above 0."""
        if not self.centre.numel():
            raise unfitted(self)
        seen = layer_input(features, self.bias)
        centred = seen - self.centre
        return seen, centred, torch.linalg.vector_norm(centred, dim=-1).clamp_min(TINY)


@register_score
class FDBD(CentredScore):
    """ood_score = - mean_{c != y} (f_y - f_c) / |w_y - w_c| / |h - m| <= 0; no option."""

    name: ClassVar[str] = "fdbd"
    equation: ClassVar[str] = "- mean_{c != y} (f_y - f_c) / |w_y - w_c| / |h - m|, y = argmax f"
    source: ClassVar[str] = "Liu & Qin, ICML 2024"
    Options: ClassVar[type[Record]] = NoOptions
    gaps: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("gaps", torch.zeros(0, 0))

    def hold(self, weight: Tensor) -> None:
        self.gaps = inverse_gaps(weight.double()).to(weight.dtype)

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        _, _, length = self.around_mean(features)
        return -boundary_distance(logits, self.gaps) / length


@register_score
class NCI(CentredScore):
    """ood_score = - <w_y, h - m> / |h - m| - alpha |h|_1, the predicted class's weights along the centred feature."""

    name: ClassVar[str] = "nci"
    equation: ClassVar[str] = "- <w_y, h - m> / |h - m| - alpha |h|_1, y = argmax f"
    source: ClassVar[str] = "Liu & Qin, CVPR 2025"
    weight: Tensor

    class Options(ScoreOptions):
        alpha: float = option(
            0.0,
            "Factor of the features' L1 norm; published values, 1e-4 to 0.1, were chosen on OOD images.",
            common=True,
            ge=0,
        )

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weight", torch.zeros(0, 0))

    def hold(self, weight: Tensor) -> None:
        self.weight = weight

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        seen, centred, length = self.around_mean(features)
        along = (self.weight.index_select(0, logits.argmax(-1)) * centred).sum(-1) / length
        return -along - self.options.alpha * seen.abs().sum(-1) if self.options.alpha else -along
