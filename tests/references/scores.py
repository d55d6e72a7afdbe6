"""The scores by their definitions: one image at a time, in float64, with nothing clever.

Every function takes features (N, D) and/or logits (N, C) and returns (N,), higher = more out-of-distribution.
"""

from __future__ import annotations

import math

import numpy as np


def softmax(row: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(row)) for value in row]
    return np.array([power / sum(powers) for power in powers])


def logsumexp(row: np.ndarray) -> float:
    return max(row) + math.log(sum(math.exp(value - max(row)) for value in row))


def msp(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.array([-max(softmax(row / temperature)) for row in np.float64(logits)])


def max_logit(logits: np.ndarray) -> np.ndarray:
    return np.array([-max(row) for row in np.float64(logits)])


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.array([-temperature * logsumexp(row / temperature) for row in np.float64(logits)])


def energy_logistic(logits: np.ndarray, class_weights: np.ndarray, slope: float, offset: float) -> np.ndarray:
    scores = []
    for row in np.float64(logits):
        total = sum(max(weight, 1e-12) * math.exp(value) for weight, value in zip(class_weights, row, strict=True))
        scores.append(-(slope * math.log(total) + offset))
    return np.array(scores)


def cosine(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scores = []
    for h in np.float64(features):
        cosines = [float(h @ w) / (np.linalg.norm(h) * np.linalg.norm(w)) for w in np.float64(weight)]
        scores.append(-max(cosines))
    return np.array(scores)


def tied_covariance(features: np.ndarray, labels: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Class means (C, D) and (1 - s) Sigma + s trace(Sigma) / D, Sigma = 1/N sum of outer products (biased)."""
    x = np.float64(features)
    size = x.shape[1]
    means = np.stack([x[labels == c].mean(0) for c in sorted(set(labels.tolist()))])
    sigma = np.zeros((size, size))
    for h, label in zip(x, labels, strict=True):
        sigma += np.outer(h - means[label], h - means[label]) / len(x)
    return means, (1 - shrinkage) * sigma + shrinkage * np.trace(sigma) / size * np.eye(size)


def mahalanobis(features: np.ndarray, means: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    precision = np.linalg.inv(covariance)
    scores = []
    for h in np.float64(features):
        scores.append(min(float((h - mean) @ precision @ (h - mean)) for mean in means))
    return np.array(scores)


def knn(features: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    def unit(h: np.ndarray) -> np.ndarray:
        return h / np.linalg.norm(h)

    kept = [unit(h) for h in np.float64(bank)]
    return np.array([sorted(float(((unit(h) - b) ** 2).sum()) for b in kept)[k - 1] for h in np.float64(features)])


class ViM:
    """Everything from the complete decomposition; alpha over all training features."""

    def __init__(
        self, features: np.ndarray, logits: np.ndarray, weight: np.ndarray, bias: np.ndarray, dim: int
    ) -> None:
        self.origin = -np.linalg.pinv(np.float64(weight)) @ np.float64(bias)
        shifted = np.float64(features) - self.origin
        values, vectors = np.linalg.eigh(sum(np.outer(h, h) for h in shifted) / len(shifted))
        self.residual = vectors[:, np.argsort(values)[: len(values) - dim]]
        norms = [np.linalg.norm(h @ self.residual) for h in shifted]
        self.alpha = float(np.float64(logits).max(1).mean() / np.mean(norms))

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        scores = []
        for h, row in zip(np.float64(features), np.float64(logits), strict=True):
            scores.append(self.alpha * np.linalg.norm((h - self.origin) @ self.residual) - logsumexp(row))
        return np.array(scores)
