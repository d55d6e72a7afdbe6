"""Virtual-logit matching. Source: Wang et al., CVPR 2022.

    ood_score = alpha |R'(h - u)| - logsumexp(f)
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
from .base import Need, Score, register_score, unfitted
from .moments import second_moment
from .reservoir import Reservoir


def vim(features: Tensor, logits: Tensor, origin: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """alpha |R'(h - u)| - logsumexp(f); features (N, D), logits (N, C), origin (D,), residual R (D, D - dim)."""
    norm: Tensor = torch.linalg.vector_norm((features - origin) @ residual, dim=-1)
    return alpha * norm - logits.logsumexp(-1)


def default_dim(num_features: int) -> int:
    """Size of the principal space: 1000 from D = 2048, 512 from 768, 256 from 512, else D / 2."""
    for width, dim in ((2048, 1000), (768, 512), (512, 256)):
        if num_features >= width:
            return dim
    return max(1, num_features // 2)


@register_score
class ViM(Score):
    """ood_score = alpha |R'(h - u)| - logsumexp(f)."""

    name: ClassVar[str] = "vim"
    equation: ClassVar[str] = "alpha |R'(h - u)| - logsumexp(f)"
    source: ClassVar[str] = "Wang et al., CVPR 2022"
    needs: ClassVar[tuple[Need, ...]] = ("logits", "features", "weights")
    needs_fit: ClassVar[bool] = True
    origin: Tensor
    residual: Tensor
    alpha: Tensor

    class Options(Record):
        dim: int | None = option(
            None,
            "Dimensions of the principal space, fewer than the features; by default 1000, 512 or 256 from 2048, 768 or "
            "512 features on, else half of them.",
            common=True,
            ge=1,
        )
        sample: int = option(20_000, "Most training images whose features are kept to find alpha.", ge=1)
        seed: int = option(0, "Seed of that sample.")

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("origin", "residual"):
            self.register_buffer(name, torch.zeros(0))
        self.register_buffer("alpha", torch.zeros(()))

    def begin(self, num_features: int, num_classes: int, last_layer: LastLayer | None) -> None:
        if last_layer is None:
            raise ModelError("score 'vim' needs the weights of a last linear layer; use 'knn' or 'mahalanobis'")
        self._dim = self.options.dim or default_dim(num_features)
        if self._dim >= num_features:
            raise ConfigError(f"score 'vim': dim must be below the {num_features} features, got {self._dim}")
        weight = last_layer.weight.double()
        bias = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
        if last_layer.bias is not None:
            bias = last_layer.bias.double()
        self._origin = -torch.linalg.pinv(weight) @ bias
        self._second = torch.zeros(num_features, num_features, dtype=torch.float64, device=weight.device)
        self._count, self._max_logits = 0, torch.zeros((), dtype=torch.float64, device=weight.device)
        self._reservoir = Reservoir(self.options.sample, self.options.seed)

    def update(self, features: Tensor, logits: Tensor, labels: Tensor, feature_map: Tensor | None = None) -> None:
        shifted = features.double() - self._origin
        self._second += second_moment(shifted)
        self._max_logits += logits.double().amax(-1).sum()
        self._count += len(features)
        self._reservoir.add(shifted.float())

    def finish(self) -> None:
        if not self._count:
            raise DataError("score 'vim' saw no data to fit on")
        dim = self._principal_dim()
        _, vectors = torch.linalg.eigh(self._second / self._count)  # ascending
        residual = vectors[:, : vectors.shape[1] - dim]
        norms = torch.linalg.vector_norm(self._reservoir.rows().double() @ residual, dim=-1)
        self.origin, self.residual = self._origin.float(), residual.contiguous().float()
        self.alpha = (self._max_logits / self._count / norms.mean().clamp_min(1e-12)).float()
        del self._second, self._reservoir

    def _principal_dim(self) -> int:
        """The default dim, at most half the images: n features span n directions, and with all of them in the principal
        space nothing would be left over, alpha without bound, and the energy without a say."""
        if self.options.dim is None:
            return min(self._dim, max(1, self._count // 2))
        if self._dim >= self._count:
            raise DataError(
                f"score 'vim' with dim={self._dim} needs more training images than that, got {self._count}; lower dim, "
                "or leave it to the score"
            )
        return self._dim

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.residual.numel():
            raise unfitted(self)
        return vim(features, logits, self.origin, self.residual, self.alpha)
