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


def entropy(logits: np.ndarray) -> np.ndarray:
    return np.array([-sum(p * math.log(p) for p in softmax(row) if p > 0) for row in np.float64(logits)])


def gen(logits: np.ndarray, gamma: float = 0.1, m: int = 100) -> np.ndarray:
    scores = []
    for row in np.float64(logits):
        order = np.argsort(-row)
        p = softmax(row)[order]
        kept = [(p[c] ** gamma) * (math.fsum(np.delete(p, c)) ** gamma) for c in range(min(m, len(p)))]
        scores.append(sum(kept))
    return np.array(scores)


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


class KLMatching:
    """The mean softmax of the images predicted as each class; the smallest divergence from one."""

    def __init__(self, logits: np.ndarray) -> None:
        rows = [softmax(row) for row in np.float64(logits)]
        groups: dict[int, list[np.ndarray]] = {}
        for row, p in zip(logits, rows, strict=True):
            groups.setdefault(int(np.argmax(row)), []).append(p)
        self.means = [np.mean(group, axis=0) for group in groups.values()]

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        return np.array([min(self._divergence(softmax(row), d) for d in self.means) for row in np.float64(logits)])

    @staticmethod
    def _divergence(p: np.ndarray, d: np.ndarray) -> float:
        return math.fsum(a * (math.log(a) - math.log(b + 1e-12)) for a, b in zip(p, d, strict=True) if a > 0)


class SHE:
    """Per class the mean of the correctly classified features, or of all of them; the inner product with it."""

    def __init__(self, features: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> None:
        x, predicted = np.float64(features), logits.argmax(1)
        self.patterns = np.zeros((logits.shape[1], x.shape[1]))
        for c in range(logits.shape[1]):
            of_class = [i for i in range(len(x)) if labels[i] == c]
            chosen = [i for i in of_class if predicted[i] == c] or of_class
            if chosen:
                self.patterns[c] = np.mean([x[i] for i in chosen], axis=0)

    def __call__(self, features: np.ndarray, logits: np.ndarray) -> np.ndarray:
        pairs = zip(np.float64(features), logits, strict=True)
        return np.array([-float(h @ self.patterns[int(np.argmax(row))]) for h, row in pairs])


class RelativeMahalanobis:
    """Two complete inverses and two complete distances. The overall covariance has the tied one's ridge."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, shrinkage: float) -> None:
        x = np.float64(features)
        self.means, tied = tied_covariance(features, labels, shrinkage)
        self.centre = x.mean(0)
        overall = sum(np.outer(h - self.centre, h - self.centre) for h in x) / len(x)
        self.tied = np.linalg.inv(tied)
        self.overall = np.linalg.inv(overall + tied - tied_covariance(features, labels, 0)[1])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        scores = []
        for h in np.float64(features):
            nearest = min(float((h - mean) @ self.tied @ (h - mean)) for mean in self.means)
            scores.append(nearest - float((h - self.centre) @ self.overall @ (h - self.centre)))
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


def radially_normalised(features: np.ndarray, exponent: float) -> np.ndarray:
    return np.array([h / np.linalg.norm(h) ** exponent if np.linalg.norm(h) else h for h in np.float64(features)])


def residual(features: np.ndarray, fitting: np.ndarray, weight: np.ndarray, bias: np.ndarray, dim: int) -> np.ndarray:
    """The part of h - u that no combination of the `dim` leading directions gives, by least squares."""
    origin = -np.linalg.pinv(np.float64(weight)) @ np.float64(bias)
    _, _, directions = np.linalg.svd(np.float64(fitting) - origin)
    leading = directions[:dim].T
    scores = []
    for h in np.float64(features):
        explained = leading @ np.linalg.lstsq(leading, h - origin, rcond=None)[0]
        scores.append(math.sqrt(sum((h - origin - explained) ** 2)))
    return np.array(scores)


def fdbd(features: np.ndarray, fitting: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean, w = np.float64(fitting).mean(0), np.float64(weight)
    scores = []
    for h in np.float64(features):
        f = [float(row @ h) + float(b) for row, b in zip(w, bias, strict=True)]
        y = f.index(max(f))
        others = [c for c in range(len(f)) if c != y]
        distance = sum((f[y] - f[c]) / math.dist(w[y], w[c]) for c in others) / len(others)
        scores.append(-distance / math.dist(h, mean))
    return np.array(scores)


def nci(features: np.ndarray, fitting: np.ndarray, weight: np.ndarray, bias: np.ndarray, alpha: float) -> np.ndarray:
    mean, w = np.float64(fitting).mean(0), np.float64(weight)
    scores = []
    for h in np.float64(features):
        f = [float(row @ h) + float(b) for row, b in zip(w, bias, strict=True)]
        y = f.index(max(f))
        scores.append(-float(w[y] @ (h - mean)) / math.dist(h, mean) - alpha * sum(abs(h)))
    return np.array(scores)
