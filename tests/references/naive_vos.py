"""VOS's sampler as published: really draw n vectors per class, keep those of lowest density."""

from __future__ import annotations

import numpy as np


def least_likely(
    mean: np.ndarray, covariance: np.ndarray, n: int, select: int, random: np.random.Generator
) -> np.ndarray:
    """(select, D): of n draws from N(mean, covariance) the least likely, the very least likely first."""
    draws = random.multivariate_normal(mean, covariance, size=n, method="cholesky")
    centred = draws - mean
    log_density = -0.5 * np.einsum("nd,nd->n", centred @ np.linalg.inv(covariance), centred)  # up to a constant
    return draws[np.argsort(log_density)[:select]]
