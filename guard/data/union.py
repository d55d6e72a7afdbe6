"""Several `ImageData` as one, without copying a pixel."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import DataError
from .image_data import ImageData


class UnionPixels:
    """The images of several parts, one part after the other; read from each when asked for."""

    array: np.ndarray | None = None

    def __init__(self, parts: Sequence[ImageData]) -> None:
        self._parts = list(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])])

    def batches(self, groups: list[np.ndarray]) -> Iterator[np.ndarray]:
        """uint8 (b, H, W, C) for each int64 (b,) group."""
        return (self._gather(group) for group in groups)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        p = self._parts[0].preprocess
        images = np.empty((len(rows), p.height, p.width, p.channels), np.uint8)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            images[mine] = self._parts[number].take(rows[mine] - self._starts[number])
        return images


def union(parts: Sequence[ImageData]) -> ImageData:
    """The images of all parts in order, unlabelled.

    Raises:
        DataError: they were made into pixels in different ways.
    """
    if len({part.preprocess for part in parts}) != 1:
        raise DataError(f"{', '.join(part.name for part in parts)} have other sizes or preprocessing; load them alike")
    pixels = UnionPixels(parts)
    digests = [part.digests for part in parts if part.digests is not None]
    return ImageData(
        name=" + ".join(part.name for part in parts),
        class_names=(),
        labels=None,
        preprocess=parts[0].preprocess,
        fingerprint=hashlib.sha256("+".join(part.fingerprint for part in parts).encode()).hexdigest()[:16],
        rows=np.arange(sum(len(part) for part in parts)),
        corrupt=tuple(sentence for part in parts for sentence in part.corrupt),
        pixels=pixels,
        digests=np.concatenate(digests) if len(digests) == len(parts) else None,
        _positions=np.arange(sum(len(part) for part in parts)),
    )
