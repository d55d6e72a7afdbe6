"""Images whose pixels are equal: copies of the first of them.

A copy on the other side of a split makes a network look right, and a false-alarm rate low, that it is not. So what is
drawn keeps copies together (`splits.split`), and what is given apart is compared (`held_out.Splits`).
"""

from __future__ import annotations

import hashlib

import numpy as np

DIGEST = np.dtype("<u8")  # 64 bits: among a million images two different ones agree with a chance of 3e-8


def pixel_digest(pixels: np.ndarray) -> int:
    """Of one image uint8 (H, W, C) as the network sees it."""
    return int.from_bytes(hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8).digest(), "little")


def pixel_digests(images: np.ndarray) -> np.ndarray:
    """(N,) uint64 for uint8 (N, H, W, C)."""
    return np.fromiter((pixel_digest(image) for image in images), DIGEST, len(images))


def originals(digests: np.ndarray) -> np.ndarray:
    """(N,) int64: for each image the first one with its pixels, which is itself where it is no copy."""
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    return first.astype(np.int64)[inverse.ravel()]


def copies(digests: np.ndarray | None) -> int:
    """How many images are copies of another."""
    return 0 if digests is None else len(digests) - len(np.unique(digests))


def relabelled(digests: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (n,) twice: the copies that have another label than their original, and the originals."""
    first = originals(digests)
    rows = np.flatnonzero(labels != labels[first])
    return rows, first[rows]
