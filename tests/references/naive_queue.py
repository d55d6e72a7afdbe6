"""A deque per class, and numpy's mean and covariance."""

from __future__ import annotations

from collections import deque

import numpy as np


class NaiveQueue:
    def __init__(self, num_classes: int, size: int) -> None:
        self.rows: list[deque[np.ndarray]] = [deque(maxlen=size) for _ in range(num_classes)]

    def push(self, features: np.ndarray, labels: np.ndarray) -> None:
        for h, label in zip(features, labels, strict=True):
            self.rows[label].append(np.float64(h))

    def gaussians(self) -> tuple[np.ndarray, np.ndarray]:
        """Class means, and Sigma = 1/n sum_c X_c' X_c with X_c centred on its own class mean."""
        means = np.stack([np.mean(rows, 0) for rows in self.rows])
        centred = np.concatenate([np.stack(rows) - mean for rows, mean in zip(self.rows, means, strict=True)])
        return means, centred.T @ centred / len(centred)
