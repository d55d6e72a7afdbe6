"""NPOS's boundary set and candidates as one would write them first: all distances, all sorted."""

from __future__ import annotations

import numpy as np


def kth_distances(queries: np.ndarray, bank: np.ndarray, k: int) -> np.ndarray:
    """(N,) squared distance to the k-th nearest row of the bank, from the differences."""
    distances = ((queries[:, None, :] - bank[None, :, :]) ** 2).sum(-1)
    return np.sort(distances, axis=1)[:, k - 1]


def boundary_rows(features: np.ndarray, k: int, select: int, nearest: bool = False) -> np.ndarray:
    """The `select` rows of largest (smallest) kth, ties in the order of rows, ascending."""
    kth = kth_distances(features, features, k)
    order = np.argsort(kth if nearest else -kth, kind="stable")
    return np.sort(order[:select])


def full_sort(features: np.ndarray, k: int, select: int) -> np.ndarray:
    """`boundary_rows` at a size where the differences take too long: every distance by one product per block of rows,
    every row sorted in full. float32; (select,) in no order.
    """
    squares = (features**2).sum(1)
    kth = np.empty(len(features), features.dtype)
    for start in range(0, len(features), 256):
        block = slice(start, start + 256)
        distances = squares[block, None] + squares[None, :] - 2 * (features[block] @ features.T)
        kth[block] = np.sort(distances, axis=1)[:, k - 1]
    return np.argsort(-kth, kind="stable")[:select]
