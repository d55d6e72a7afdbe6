"""CLUB term by term, with whole log densities from scipy; and the mutual information of Gaussian pairs."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import multivariate_normal


def club(mean: np.ndarray, log_variance: np.ndarray, features: np.ndarray) -> float:
    """1/B sum_i [ log q(f_i | u_i) - 1/B sum_j log q(f_j | u_i) ]; all (B, D), and j = i among the j."""
    total = 0.0
    for i in range(len(mean)):
        q = multivariate_normal(mean[i], np.diag(np.exp(log_variance[i])))
        total += q.logpdf(features[i]) - np.mean([q.logpdf(f) for f in features])
    return total / len(mean)


def gaussian_information(correlation: float, dimensions: int) -> float:
    """I(u; f) in nats of D independent pairs of that correlation."""
    return -0.5 * dimensions * math.log(1 - correlation**2)
