"""Latent arithmetic in plain numpy, one outlier at a time (Choi & Na 2024)."""

from __future__ import annotations

import numpy as np


def class_means(w: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """mu_y of latents (N, L, d)."""
    return np.stack([np.mean([w[i] for i in range(len(w)) if labels[i] == c], axis=0) for c in range(num_classes)])


def outlier_latent(
    w: np.ndarray, labels: np.ndarray, members: list[int], means: np.ndarray | None, scale: float
) -> np.ndarray:
    """scale * 1/k sum over members i of (w_i - mu_y(i)), or of w_i where there are no means."""
    total = np.zeros(w.shape[1:])
    for i in members:
        total += w[i] - (means[labels[i]] if means is not None else 0)
    return scale * total / len(members)
