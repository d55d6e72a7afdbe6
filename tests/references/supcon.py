"""The supervised contrastive loss, pair by pair from its definition."""

from __future__ import annotations

import math

import numpy as np


def naive_supcon(features: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Features (N, D), labels (N,); items with a negative label do not exist."""
    kept = [i for i in range(len(labels)) if labels[i] >= 0]
    z = {i: features[i] / math.sqrt(sum(float(v) ** 2 for v in features[i])) for i in kept}
    terms = []
    for i in kept:
        others = [a for a in kept if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if not positives:
            continue
        total = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        pulled = [math.log(math.exp(float(z[i] @ z[p]) / temperature) / total) for p in positives]
        terms.append(-sum(pulled) / len(pulled))
    return sum(terms) / len(terms) if terms else 0.0
