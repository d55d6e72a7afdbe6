"""Virtual-logit matching, and the residual alone. Source: Wang et al., CVPR 2022.

    vim        alpha |R'(h - u)| - logsumexp(f)
    residual   |R'(h - u)|
    u = -pinv(W) b;  R = eigenvectors of E[(h - u)(h - u)'] beyond the `dim` largest (not centred on the mean);
    alpha = E[max_c f_c] / E[|R'(h - u)|]

One pass: the second moment is gathered in float64; the mean residual norm in alpha, which needs R, is taken over a
uniform sample of up to `sample` features (all of them where they fit).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, DataError, ModelError
from ..heads import LastLayer
from ..record import Record, option
from .base import Need, Score, ScoreOptions, register_score, unfitted
from .moments import second_moment
from .reservoir import Reservoir


def vim(features: Tensor, logits: Tensor, origin: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """alpha |R'(h - u)| - logsumexp(f); features (N, D), logits (N, C), origin (D,), residual R (D, D - dim)."""
    return alpha * residual_norm(features, origin, residual) - logits.logsumexp(-1)


def residual_norm(features: Tensor, origin: Tensor, residual: Tensor) -> Tensor:
    """|R'(h - u)|; features (N, D), origin (D,), residual R (D, D - dim) -> (N,)."""
    norm: Tensor = torch.linalg.vector_norm((features - origin) @ residual, dim=-1)
    return norm


def default_dim(num_features: int) -> int:
    """Size of the principal space: 1000 from D = 2048, 512 from 768, 256 from 512, else D / 2."""
    for width, dim in ((2048, 1000), (768, 512), (512, 256)):
        if num_features >= width:
            return dim
    return max(1, num_features // 2)


class ResidualOptions(ScoreOptions):
    """How large the principal space is."""

    dim: int | None = option(
        None,
        "Dimensions of the principal space, fewer than the features; by default 1000, 512 or 256 from 2048, 768 or "
        "512 features on, else half of them.",
        common=True,
        ge=1,
    )


@register_score
class Residual(Score):
    """ood_score = |R'(h - u)| >= 0, what of a feature lies outside the training features' principal space."""

    name: ClassVar[str] = "residual"
    equation: ClassVar[str] = "|R'(h - u)|"
    source: ClassVar[str] = "Wang et al., CVPR 2022"
    needs: ClassVar[tuple[Need, ...]] = ("features", "weights")
    needs_fit: ClassVar[bool] = True
    Options: ClassVar[type[Record]] = ResidualOptions
    origin: Tensor
    residual: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("origin", "residual"):
            self.register_buffer(name, torch.zeros(0))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None:
            raise ModelError(
                f"score {self.name!r} needs the weights of a last linear layer; use 'knn' or 'mahalanobis'"
            )
        self._dim = self.options.dim or default_dim(num_features)
        if self._dim >= num_features:
            raise ConfigError(f"score {self.name!r}: dim must be below the {num_features} features, got {self._dim}")
        weight = last_layer.weight.double()
        bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
        if last_layer.bias is not None:
            bias = last_layer.bias.double()
        self._origin = -torch.linalg.pinv(weight) @ bias
        self._second = torch.zeros(num_features, num_features, dtype=torch.float64, device=weight.device)
        self._count = 0

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        shifted = features.double() - self._origin
        self._second += second_moment(shifted)
        self._count += len(features)

    def finish(self) -> None:
        if not self._count:
            raise DataError(f"score {self.name!r} saw no data to fit on")
        dim = self._principal_dim()
        _, vectors = torch.linalg.eigh(self._second / self._count)  # ascending
        self._directions = vectors[:, : vectors.shape[1] - dim]
        self.origin, self.residual = self._origin.float(), self._directions.contiguous().float()
        del self._second

    def _principal_dim(self) -> int:
        """The default dim, at most half the images: n features span n directions, and with all of them in the principal
        space nothing would be left over (of ViM: alpha without bound, and the energy without a say)."""
        if self.options.dim is None:
            return min(self._dim, max(1, self._count // 2))
        if self._dim >= self._count:
            raise DataError(
                f"score {self.name!r} with dim={self._dim} needs more training images than that, got {self._count}; "
                "lower dim, or leave it to the score"
            )
        return self._dim

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.residual.numel():
            raise unfitted(self)
        return residual_norm(features, self.origin, self.residual)


@register_score
class ViM(Residual):
    """ood_score = alpha |R'(h - u)| - logsumexp(f)."""

    name: ClassVar[str] = "vim"
    equation: ClassVar[str] = "alpha |R'(h - u)| - logsumexp(f)"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "features", "weights")
    reads_length: ClassVar[bool] = True
    alpha: Tensor

    class Options(ResidualOptions):
        sample: int = option(20_000, "Most training images whose features are kept to find alpha.", ge=1)
        seed: int = option(0, "Seed of that sample.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("alpha", torch.zeros(()))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        super().begin(num_features, num_classes, last_layer)
        self._max_logits = torch.zeros((), dtype=torch.float64, device=self._second.device)
        self._reservoir = Reservoir(self.options.sample, self.options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        super().update(features, logits, labels, feature_map)
        self._max_logits += logits.double().amax(-1).sum()
        self._reservoir.add((features.double() - self._origin).float())

    def finish(self) -> None:
        super().finish()
        norms = torch.linalg.vector_norm(self._reservoir.rows().double() @ self._directions, dim=-1)
        self.alpha = (self._max_logits / self._count / norms.mean().clamp_min(1e-12)).float()
        del self._reservoir

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.residual.numel():
            raise unfitted(self)
        return vim(features, logits, self.origin, self.residual, self.alpha)
