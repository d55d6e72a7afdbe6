"""Running class means and a shared covariance in one pass, at constant memory, in float64.

Chan, Golub & LeVeque's pairwise update per class: merging n_b new rows of mean m_b into n rows of mean m adds
(n n_b / (n + n_b)) (m_b - m)(m_b - m)' to the scatter around the class mean, so nothing cancels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError


def second_moment(x: Tensor) -> Tensor:
    """x' x (D, D) of x (n, D). On a CPU by numpy, whose product of a matrix with its own transpose does half the work
    (BLAS syrk), which torch's does not."""
    return torch.from_numpy(np.dot(x.numpy().T, x.numpy())) if x.device.type == "cpu" else x.T @ x


class ClassMoments:
    """Class counts (C,), means (C, D) and the scatter summed over classes, each around its own class mean (D, D)."""

    def __init__(self, num_classes: int, num_features: int, device: torch.device | str = "cpu") -> None:
        self.count = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.mean = torch.zeros(num_classes, num_features, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(num_features, num_features, dtype=torch.float64, device=device)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add features (n, D) with labels (n,)."""
        x = features.double()
        labels = labels.to(x.device)
        classes = len(self.count)
        count = torch.bincount(labels, minlength=classes).double()
        total = torch.zeros_like(self.mean).index_add_(0, labels, x)
        mean = total / count.clamp_min(1)[:, None]
        centred = x - mean[labels]
        step = mean - self.mean
        merged = self.count + count
        weight = self.count * count / merged.clamp_min(1)
        self.scatter += second_moment(centred) + (step * weight[:, None]).T @ step
        self.mean += step * (count / merged.clamp_min(1))[:, None]
        self.count = merged

    def overall_mean(self) -> Tensor:
        """The mean of all rows (D,)."""
        return (self.mean * self.count[:, None]).sum(0) / self.count.sum()

    def covariance(self) -> Tensor:
        """The tied covariance (D, D): scatter / n (biased, as the field uses it)."""
        return self.scatter / self.count.sum()


def shrunk(covariance: Tensor, shrinkage: float) -> Tensor:
    """(1 - s) cov + s (trace / D) I: factors also with fewer samples than dimensions, or dead features."""
    size = covariance.shape[0]
    scale = covariance.diagonal().sum() / size
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
    return (1 - shrinkage) * covariance + shrinkage * scale * eye


def whitening_matrix(covariance: Tensor, shrinkage: float, owner: str) -> Tensor:
    """A (D, D) with A A' = shrunk(covariance)^-1, so that |A'(h - m)|^2 is a Mahalanobis distance.

    Raises:
        DataError: the shrunk covariance is still singular; `owner` is the score named in the message.
    """
    factor, failed = torch.linalg.cholesky_ex(shrunk(covariance, shrinkage))
    if failed:
        raise DataError(
            f"score {owner!r}: the features' covariance is singular with shrinkage={shrinkage}; "
            "use a larger one, e.g. shrinkage=1e-3"
        )
    eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    whitening: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False).T
    return whitening
