"""The heads by their definitions: angles by acos, one image at a time, in float64; losses are means."""

from __future__ import annotations

import math

import numpy as np

from tests.references.scores import logsumexp


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def angles(features: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """theta (N, C) in 0 .. pi."""
    return np.array([[math.acos(max(-1.0, min(1.0, cosine(h, w)))) for w in weight] for h in features])


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([logsumexp(row) - row[y] for row, y in zip(logits, labels, strict=True)]))


def arcface(theta: np.ndarray, labels: np.ndarray, scale: float, margin: float, fallback: str) -> float:
    logits = scale * np.cos(theta)
    for i, y in enumerate(labels):
        own = theta[i, y]
        if fallback == "easy":
            target = math.cos(own + margin) if own < math.pi / 2 else math.cos(own)
        else:
            inside = own + margin < math.pi
            target = math.cos(own + margin) if inside else math.cos(own) - margin * math.sin(math.pi - margin)
        logits[i, y] = scale * target
    return cross_entropy(logits, labels)


def cosface(theta: np.ndarray, labels: np.ndarray, scale: float, margin: float) -> float:
    logits = scale * np.cos(theta)
    for i, y in enumerate(labels):
        logits[i, y] -= scale * margin
    return cross_entropy(logits, labels)


def psi(theta: float, margin: float) -> float:
    k = min(int(theta * margin / math.pi), math.ceil(margin) - 1)
    return (-1) ** k * math.cos(margin * theta) - 2 * k


def sphereface(theta: np.ndarray, norms: np.ndarray, labels: np.ndarray, margin: float, step: int) -> float:
    strength = max(5.0, 1000 / (1 + 0.12 * step))
    logits = norms[:, None] * np.cos(theta)
    for i, y in enumerate(labels):
        own = theta[i, y]
        logits[i, y] = norms[i] * (strength * math.cos(own) + psi(own, margin)) / (1 + strength)
    return cross_entropy(logits, labels)


def adapted_scale(theta: np.ndarray, labels: np.ndarray, before: float) -> float:
    others = [
        sum(math.exp(before * math.cos(t)) for j, t in enumerate(row) if j != y)
        for row, y in zip(theta, labels, strict=True)
    ]
    own = sorted(row[y] for row, y in zip(theta, labels, strict=True))
    median = own[(len(own) - 1) // 2]
    return math.log(max(2.0, sum(others) / len(others))) / math.cos(min(math.pi / 4, median))


def adacos(theta: np.ndarray, labels: np.ndarray, scale: float) -> float:
    return cross_entropy(scale * np.cos(theta), labels)


def moved(prototypes: np.ndarray, z: np.ndarray, labels: np.ndarray, momentum: float) -> np.ndarray:
    after = []
    for c, mu in enumerate(prototypes):
        own = [row for row, y in zip(z, labels, strict=True) if y == c]
        if own:
            keep = momentum ** len(own)
            mu = keep * mu + (1 - keep) * sum(own) / len(own)
        after.append(mu / math.sqrt(float(mu @ mu)))
    return np.array(after)


def moved_one_by_one(prototypes: np.ndarray, z: np.ndarray, labels: np.ndarray, momentum: float) -> np.ndarray:
    """As the authors' code: for each image in turn, normalised every time."""
    after = prototypes.copy()
    for row, y in zip(z, labels, strict=True):
        mu = momentum * after[y] + (1 - momentum) * row
        after[y] = mu / math.sqrt(float(mu @ mu))
    return after


def dispersion(prototypes: np.ndarray, temperature: float) -> float:
    rows = []
    for i, mu in enumerate(prototypes):
        others = [math.exp(float(mu @ nu) / temperature) for j, nu in enumerate(prototypes) if j != i]
        rows.append(math.log(sum(others) / len(others)))
    return sum(rows) / len(rows)


def compactness(prototypes: np.ndarray, z: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return cross_entropy(np.array([[float(row @ mu) / temperature for mu in prototypes] for row in z]), labels)


def slopes(function: object, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient by central differences of a scalar function of one array."""
    found = np.zeros_like(at)
    for index in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[index] += step
        down[index] -= step
        found[index] = (function(up) - function(down)) / (2 * step)  # type: ignore[operator]
    return found


def logitnorm(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """CE(f / (t |f|)), times the mean of t |f|."""
    lengths = [temperature * math.sqrt(sum(f * f)) for f in np.float64(logits)]
    rows = np.array([f / length for f, length in zip(np.float64(logits), lengths, strict=True)])
    return float(np.mean(lengths)) * cross_entropy(rows, labels)


def elogitnorm(logits: np.ndarray, weight: np.ndarray, labels: np.ndarray) -> float:
    rows = []
    for f in np.float64(logits):
        y = int(np.argmax(f))
        distances = [(f[y] - f[c]) / math.dist(weight[y], weight[c]) for c in range(len(f)) if c != y]
        rows.append(f / np.mean(distances))
    return cross_entropy(np.array(rows), labels)


def t2fnorm(
    features: np.ndarray, weight: np.ndarray, bias: np.ndarray, labels: np.ndarray, temperature: float
) -> float:
    unit = [h / math.sqrt(sum(h * h)) for h in np.float64(features)]
    return cross_entropy(np.array([weight @ h / temperature + bias for h in unit]), labels)


def ish_weight_gradient(features: np.ndarray, of_logits: np.ndarray, share: float) -> np.ndarray:
    """dL/dW (C, D) of features (N, D) and dL/df (N, C): image by image, class by class, activation by activation."""
    n, width = features.shape
    kept = max(1, int(share * width))
    total = np.zeros((of_logits.shape[1], width))
    for i in range(n):
        h = [float(x) for x in features[i]]
        largest = sorted(range(width), key=lambda d: -abs(h[d]))[:kept]
        gain = math.exp(sum(h) / sum(abs(h[d]) for d in largest))
        for c in range(of_logits.shape[1]):
            for d in largest:
                total[c, d] += float(of_logits[i, c]) * gain * h[d]
    return total


def standardised(features: np.ndarray, sigma: float) -> np.ndarray:
    """Each row less its mean, over its deviation, times sigma: sums over coordinates one by one."""
    rows = []
    for h in np.float64(features):
        mean = sum(h) / len(h)
        deviation = math.sqrt(sum((x - mean) ** 2 for x in h) / len(h))
        rows.append([sigma * (x - mean) / deviation for x in h])
    return np.array(rows)
