"""The class-suppressed residual as TGT's draft writes it, image by image."""

from __future__ import annotations

import numpy as np


def class_residual(features: np.ndarray, labels: np.ndarray, eps: float) -> np.ndarray:
    """(I - U (U'U + eps I)^-1 U') (u - m) for each row u, U (T, C) the classes' means less m."""
    mean = features.mean(0)
    columns = np.stack([features[labels == c].mean(0) - mean for c in sorted(set(labels.tolist()))], 1)
    inverse = np.linalg.inv(columns.T @ columns + eps * np.eye(columns.shape[1]))
    suppressed = np.eye(len(mean)) - columns @ inverse @ columns.T
    return np.stack([suppressed @ (u - mean) for u in features])
