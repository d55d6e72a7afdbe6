"""Exact and near duplicates among images, and of other images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

NEAR_RMS = 2.0  # grey levels
_GRID = 8  # a description has at most _GRID x _GRID numbers
_NEAREST = 4  # images that are compared in full
_BLOCK = 4096


def digests(images: np.ndarray) -> list[bytes]:
    """One per image (n, H, W, channels); equal for equal pixels."""
    return [hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() for image in images]


def rms(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root mean square difference in grey levels, (n,), of uint8 images (n, H, W, channels)."""
    difference: np.ndarray = np.sqrt(np.square(a.astype(np.float32) - b).mean((1, 2, 3)))
    return difference


def describe(images: np.ndarray) -> np.ndarray:
    """Means over a coarse grid of blocks and the channels, float32 (n, d), scaled so that

        |describe(a) - describe(b)| <= rms(a, b)

    (a mean's square is at most the mean square), which lets most pairs be ruled out without looking at their pixels.
    """
    height, width = images.shape[1:3]
    rows, columns = min(_GRID, height), min(_GRID, width)
    high, wide = height // rows, width // columns
    inner = images[:, : rows * high, : columns * wide].astype(np.float32)
    means = inner.reshape(len(images), rows, high, columns, wide, -1).mean((2, 4, 5))
    covered = rows * high * columns * wide / (height * width)
    return np.asarray(means.reshape(len(images), -1) * np.sqrt(covered / (rows * columns)), np.float32)


def nearest(queries: np.ndarray, bank: np.ndarray, start: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """For each query's number, the rows of the bank that come closest in description, within `NEAR_RMS`.

    Args:
        start: the queries are rows start, start + 1 ... of the bank; only earlier rows count. None: all count.
    """
    half = np.square(bank).sum(-1) / 2
    for first in range(0, len(queries), _BLOCK):
        block = queries[first : first + _BLOCK]
        squared = 2 * (half - block @ bank.T) + np.square(block).sum(-1, keepdims=True)
        if start is not None:
            own = np.arange(start + first, start + first + len(block))[:, None]
            squared = np.where(np.arange(len(bank)) < own, squared, np.inf)
        # rounding of the product, so that nothing near is ruled out
        close = squared <= NEAR_RMS**2 + 1e-5 * (half.max(initial=0) + 1)
        for i in np.flatnonzero(close.any(-1)):
            found = np.flatnonzero(close[i])
            yield first + int(i), found[np.argsort(squared[i, found], kind="stable")[:_NEAREST]]
