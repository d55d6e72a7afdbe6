"""Points beyond a class's edge, one feature after the other (FodFoM)."""

from __future__ import annotations

import numpy as np


def naive_beyond_edge(
    features: np.ndarray, share: float, outward: int, step: float, *, code: bool = False
) -> np.ndarray:
    """features (n, D) of one class; the least cosine first. code: as the published code moves them."""
    mean = features.mean(0)
    cosines = [float(f @ mean) / (np.linalg.norm(f) * np.linalg.norm(mean)) for f in features]
    edge = np.argsort(cosines, kind="stable")[: max(1, round(share * len(features)))]
    made = []
    for i in edge:
        direction = np.full_like(mean, np.linalg.norm(features[i] - mean)) if code else features[i] - mean
        made += [features[i] + k * step * direction for k in range(1, outward + 1)]
    return np.stack(made)
