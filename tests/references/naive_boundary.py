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


def full_sort(bank: np.ndarray, k: int, rows: np.ndarray) -> np.ndarray:
    """The kth of `rows` of a bank that is too large for `kth_distances`: every distance by one product per block, every
    row of distances sorted in full; in the bank's precision.
    """
    squares = (bank**2).sum(1)
    kth = []
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        distances = squares[block, None] + squares[None, :] - 2 * (bank[block] @ bank.T)
        kth.append(np.sort(distances, axis=1)[:, k - 1])
    return np.concatenate(kth)
