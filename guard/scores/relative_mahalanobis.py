"""Mahalanobis distance to the nearest class, less that to the whole. Source: Ren et al., arXiv 2106.09022.

    ood_score = min_c M_c - M_0,   M_c = (h - mu_c)' S^-1 (h - mu_c),   M_0 = (h - m)' (S + B)^-1 (h - m)

S is the shrunk tied covariance and B = 1/N sum_c n_c (mu_c - m)(mu_c - m)' what lies between the classes: S + B is the
covariance of all features around their mean m (divided by N, shrunk as S is). With `normalise`, z = h / |h|^b takes the
place of h (Mueller & Hein, ICML 2025, for b = 1).

Both distances are large and nearly equal, and are never formed. Whitened by A (A A' = S^-1) the class means z_c =
A'(mu_c - m) span at most C - 1 directions; let V and l be the eigenvectors and eigenvalues of A'BA there. Outside these
directions the two distances are the same; inside, with y = V'A'(h - m) and y_c = V'z_c,

    M_c - M_0 = |y - y_c|^2 - sum_i y_i^2 / (1 + l_i)

So the graph needs one D x (C - 1) product, and float32 loses nothing to a difference of large numbers: on training data
both terms are of the order of C, however far the classes lie apart.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import register_score, unfitted
from .class_covariance import ClassCovarianceScore


def relative_mahalanobis(
    features: Tensor, centre: Tensor, projection: Tensor, within: Tensor, class_means: Tensor
) -> Tensor:
    """min_c M_c - M_0, of either sign.

    Args:
        features: (N, D). centre: m (D,). projection: A V (D, r).
        within: 1 / (1 + l) in (0, 1], the share of S in S + B, (r,). class_means: y_c (C, r).

    Returns:
        (N,)
    """
    y = (features - centre) @ projection
    nearest = F.linear(y, class_means, class_means.square().sum(-1) / -2).argmax(-1)
    return (y - class_means.index_select(0, nearest)).square().sum(-1) - (y.square() * within).sum(-1)


@register_score
class RelativeMahalanobis(ClassCovarianceScore):
    """ood_score = min_c M_c - M_0; classes without images are left out."""

    name: ClassVar[str] = "relative_mahalanobis"
    equation: ClassVar[str] = "min_c (h - mu_c)' S^-1 (h - mu_c) - (h - m)' (S + B)^-1 (h - m)"
    source: ClassVar[str] = "Ren et al., arXiv 2106.09022"
    centre: Tensor
    projection: Tensor
    within: Tensor
    class_means: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("centre", "projection", "within", "class_means"):
            self.register_buffer(name, torch.zeros(0))

    def finish(self) -> None:
        moments, whitening = self.gathered()
        centre, seen = moments.overall_mean(), moments.count > 0
        z = (moments.mean[seen] - centre) @ whitening
        weight = moments.count[seen] / moments.count.sum()
        # A'BA = Z'Z with rows sqrt(n_c / N) z_c; its last singular value is 0 where C <= D, for the rows are centred
        _, singular, vectors = torch.linalg.svd(weight.sqrt()[:, None] * z, full_matrices=False)
        rank = max(1, min(int(seen.sum()) - 1, z.shape[1]))
        spread, basis = singular[:rank].square(), vectors[:rank].T
        self.centre, self.projection = centre.float(), (whitening @ basis).contiguous().float()
        self.within, self.class_means = (1 / (1 + spread)).float(), (z @ basis).float()

    def forward(self, features: Tensor, logits: Tensor, feature_map: Tensor | None = None) -> Tensor:
        if not self.projection.numel():
            raise unfitted(self)
        z = self.read(features, feature_map)
        return relative_mahalanobis(z, self.centre, self.projection, self.within, self.class_means)
