"""The least likely of n draws from a Gaussian, drawn directly. Used by VOS (Du et al., ICLR 2022).

The naive way draws n = 10,000 vectors x = mu + L e (Sigma = L L') per class and keeps those of lowest density, that
is of largest squared Mahalanobis radius r^2 = |e|^2. But e has a direction uniform on the sphere, independent of its
radius, and the n radii^2 are independent chi-square(D): what is kept has exactly the law of the `select` largest of n
chi-square(D) draws with uniform directions. Those order statistics need no n draws either (Renyi):

    w_j = E_1 / n + E_2 / (n - 1) + ... + E_j / (n - j + 1),   E_i ~ Exp(1);   U_(n-j+1) = exp(-w_j)
    r_j^2 = F^-1(exp(-w_j)),   F the chi-square(D) distribution function

r(w) is tabulated once over log w and interpolated on the device (error below 1e-5 of r, or of sqrt(D) near 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..base import IDBatch, Outliers, Synthesiser
from .feature_queue import FeatureQueue

_LOG_W = (-60.0, 5.0)  # exp(-exp(5)) is 1e-65: far beyond anything drawn
_POINTS = 8192


def radius_table(dimensions: int) -> Tensor:
    """r(w) = sqrt(F^-1(exp(-w))) of chi-square(D) on an even grid of log w, float64 (8192,)."""
    from scipy.stats import chi2

    w = np.exp(np.linspace(*_LOG_W, _POINTS))
    upper, lower = chi2.isf(-np.expm1(-w), dimensions), chi2.ppf(np.exp(-w), dimensions)
    return torch.from_numpy(np.sqrt(np.where(w < 1, upper, lower)))  # each where it keeps its digits


def largest_radii(table: Tensor, n: int, select: int, rows: int, generator: torch.Generator) -> Tensor:
    """Radii (rows, select), descending, of the `select` largest of n draws; one independent set per row."""
    spacing = torch.empty(rows, select, dtype=table.dtype, device=table.device)
    spacing.exponential_(generator=generator)
    left = n - torch.arange(select, device=table.device)
    log_w = (spacing / left).cumsum(-1).log()
    low, high = _LOG_W
    at = ((log_w - low) / (high - low) * (_POINTS - 1)).clamp(0, _POINTS - 1.001)
    index = at.long()
    part = at - index
    return table[index] * (1 - part) + table[index + 1] * part


class ClassGaussian(Synthesiser):
    """C * select outliers (K, D) per step from class Gaussians with one shared covariance.

    Args:
        queue: features kept of each class (C,), or of all alike.
        draws: n, the draws that each kept outlier is the least likely of.
        select: how many of the n are kept per class.
        jitter: added to the covariance's diagonal.
    """

    space: ClassVar = "feature"
    table: Tensor

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        *,
        queue: int | Sequence[int],
        draws: int,
        select: int,
        jitter: float = 1e-4,
    ) -> None:
        super().__init__()
        self.queue = FeatureQueue(num_classes, num_features, queue)
        self.draws = draws
        self.select = min(select, draws)
        self.jitter = jitter
        self.register_buffer("table", radius_table(num_features).float(), persistent=False)

    def observe(self, features: Tensor, labels: Tensor) -> None:
        self.queue.push(features, labels)

    def ready_after(self, shown: Tensor) -> bool:
        return self.queue.filled_by(shown.sum(0))

    def start_epoch(self, steps: int, generator: torch.Generator) -> None:
        self.queue.resum()

    def sample(self, batch: IDBatch, generator: torch.Generator) -> Outliers:
        means, covariance = self.queue.gaussians()
        classes, width = means.shape
        eye = torch.eye(width, dtype=covariance.dtype, device=covariance.device)
        factor, _ = torch.linalg.cholesky_ex(covariance + self.jitter * eye)  # no check, so no synchronisation
        noise = torch.randn(classes * self.select, width, generator=generator, device=means.device)
        direction = noise / torch.linalg.vector_norm(noise, dim=-1, keepdim=True)
        radius = largest_radii(self.table, self.draws, self.select, classes, generator).reshape(-1, 1)
        centre = means.float().repeat_interleave(self.select, 0)
        data = centre + (radius * direction) @ factor.float().T
        origin = f"least likely {self.select} of {self.draws} per class Gaussian"
        return Outliers(data, origin, ready=self.queue.full())  # as published: not before every queue is full
