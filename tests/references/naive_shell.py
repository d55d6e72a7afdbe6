"""GCOS's sampler by its definition: the distance along a ray by bisection, one class and one direction at a time."""

from __future__ import annotations

import numpy as np


def covariance(fitted: np.ndarray, shrink: float) -> np.ndarray:
    """The class's own (D, D), shrunk to its mean variance."""
    centred = fitted - fitted.mean(0)
    own = sum(np.outer(row, row) for row in centred) / len(fitted)
    return (1 - shrink) * own + shrink * np.trace(own) / len(own) * np.eye(len(own))


def distance(x: np.ndarray, fitted: np.ndarray, shrink: float) -> float:
    """Squared Mahalanobis distance of x (D,) to the class of features (n, D)."""
    centred = x - fitted.mean(0)
    return float(centred @ np.linalg.solve(covariance(fitted, shrink), centred))


def length(direction: np.ndarray, fitted: np.ndarray, held: np.ndarray, shrink: float, quantile: float) -> float:
    """How far along a unit direction (D,) the distance reaches its quantile over held-out features: by bisection."""
    wanted = np.quantile([distance(row, fitted, shrink) for row in held], quantile)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        below = distance(fitted.mean(0) + middle * direction, fitted, shrink) < wanted
        low, high = (middle, high) if below else (low, middle)
    return low


def off_manifold(fitted: np.ndarray, explained: float) -> np.ndarray:
    """Principal directions (k, D) outside the fewest that hold `explained` of the variance; at least one."""
    centred = fitted - fitted.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=True)
    variance = np.zeros(fitted.shape[1])
    variance[: len(singular)] = singular**2
    kept = next(k for k in range(1, len(variance) + 1) if variance[:k].sum() >= explained * variance.sum())
    return directions[min(kept, len(variance) - 1) :]
