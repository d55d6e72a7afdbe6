"""`ImageData`: labelled or unlabelled images of one size, whatever they were loaded from."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import ConfigError, DataError, ImageError
from ..manifest import DataCard, Preprocess
from ..preprocess import to_input
from .coding import Coding
from .copies import copies
from .forms import Source

_GATHER_LIMIT_BYTES = 2**30


class Pixels(Protocol):
    """Where the pixels are: decoded in one array, or decoded when asked for."""

    @property
    def array(self) -> np.ndarray | None:
        """uint8 (M, H, W, C), or None where images are decoded on demand."""
        ...

    def batches(self, groups: list[np.ndarray]) -> Iterator[np.ndarray]:
        """For each int64 (b,) array of rows, in the order given: uint8 (b, H, W, C)."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """N images of one size. Make it with `load`; everything is read-only.

    Attributes:
        name: what the images are called in tables and data cards.
        class_names: one per class; empty for unlabelled images.
        labels: (N,) int64 in 0 .. C-1, or None for unlabelled images.
        preprocess: how they became pixels; goes into the manifest, so that serving does the same.
        fingerprint: 16 hex digits of a SHA-256 over the WHOLE source (see `fingerprint.py`). Subsets keep it: two
            `ImageData` with one fingerprint come from the same images.
        rows: (N,) int64, the row of each image in the source (files in sorted order; Parquet rows; array rows).
            `max_images`, skipped corrupt images and `subset` leave gaps.
        corrupt: one sentence per skipped image: which, and why.
        folder: the source's own folder, or that of its file; None for arrays, hub ids and the like.
        codings: how some of the source's images were coded (`guard.data.coding`); empty where no JPEG is of this size.
        not_read: how many files of the source cannot be read as images, by ending.
        digests: (N,) uint64, equal where pixels are (`guard.data.copies`); None where nobody looked.
    """

    name: str
    class_names: tuple[str, ...]
    labels: np.ndarray | None
    preprocess: Preprocess
    fingerprint: str
    rows: np.ndarray
    corrupt: tuple[str, ...]
    pixels: Pixels
    codings: tuple[Coding | None, ...] = ()
    not_read: Mapping[str, int] = field(default_factory=dict)
    digests: np.ndarray | None = None
    source: Source | None = None  # where `decoded` finds the images; None for a union
    folder: Path | None = None
    _positions: np.ndarray | None = None  # rows of `pixels`; None: all of them, in order

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        p, where = self.preprocess, "decoded on demand" if self.pixels.array is None else "in one array"
        kinds = f"{len(self.class_names)} classes" if self.labels is not None else "unlabelled"
        return (
            f"ImageData({self.name}: {len(self)} images {p.height} x {p.width} x {p.channels}, {kinds}, {where}, "
            f"{len(self.corrupt)} corrupt, fingerprint {self.fingerprint})"
        )

    @functools.cached_property
    def array(self) -> np.ndarray | None:
        """uint8 (N, H, W, C) in memory or memory-mapped; None where images are decoded on demand.

        A subset's array is gathered (copied) once, on first use; above 1 GiB it is None: use `batches`.
        """
        whole = self.pixels.array
        if whole is None or self._positions is None:
            return whole
        if len(self) * int(np.prod(whole.shape[1:])) > _GATHER_LIMIT_BYTES:
            return None
        return np.asarray(whole[self._positions])

    def subset(self, indices: np.ndarray) -> ImageData:
        """The images at `indices` (int64 (n,), any order, repeats allowed), sharing pixels and fingerprint."""
        indices = self._checked(indices)
        return ImageData(
            name=self.name,
            class_names=self.class_names,
            labels=None if self.labels is None else self.labels[indices],
            preprocess=self.preprocess,
            fingerprint=self.fingerprint,
            rows=self.rows[indices],
            corrupt=self.corrupt,
            pixels=self.pixels,
            codings=self.codings,
            not_read=self.not_read,
            digests=None if self.digests is None else self.digests[indices],
            source=self.source,
            folder=self.folder,
            _positions=self._in_pixels(indices),
        )

    def take(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (n, H, W, C): the images at `indices`, in that order."""
        indices = self._checked(indices)
        whole = self.pixels.array
        if whole is not None:
            return np.asarray(whole[self._in_pixels(indices)])
        return next(self.pixels.batches([self._in_pixels(indices)]))

    def decoded(self, indices: np.ndarray, preprocess: Preprocess) -> np.ndarray:
        """uint8 (n, H, W, C): the images at `indices`, made into pixels in another way; for a few of them.

        Raises:
            DataError: several data sets as one, which keep no way back to their files.
            ImageError: a file that could be read before cannot be now.
        """
        if self.source is None:
            raise DataError(f"{self.name} cannot be decoded again")
        order = np.argsort(self.rows[self._checked(indices)])
        items = self.source.items(self.rows[indices][order])
        shape = (len(items), preprocess.height, preprocess.width, preprocess.channels)
        found = np.empty(shape, np.uint8)
        for place, item in zip(order, items, strict=True):
            if isinstance(item, ImageError):
                raise item
            found[place] = to_input(item, preprocess)
        return found

    def batches(
        self, batch_size: int, order: np.ndarray | None = None, drop_last: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Batches in exactly the order given, decoded ahead by worker processes where images are not in memory.

        Args:
            batch_size: images per batch, >= 1.
            order: int64 indices into this data, any length; default 0 .. N-1.
            drop_last: leave out a last batch that is not full.

        Yields:
            (uint8 (b, H, W, C), int64 (b,) labels or None).
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        order = np.arange(len(self)) if order is None else self._checked(order)
        stop = len(order) - len(order) % batch_size if drop_last else len(order)
        groups = [order[start : start + batch_size] for start in range(0, stop, batch_size)]
        return self._batches(groups)

    def _batches(self, groups: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        whole = self.pixels.array
        if whole is not None:
            for group in groups:
                yield np.asarray(whole[self._in_pixels(group)]), self._labels_of(group)
            return
        stream = self.pixels.batches([self._in_pixels(group) for group in groups])
        for group, images in zip(groups, stream, strict=True):
            yield images, self._labels_of(group)

    def card(self, splits: dict[str, int]) -> DataCard:
        """The record that goes into a manifest; `splits` maps split names to image counts."""
        return DataCard(
            name=self.name,
            fingerprint=self.fingerprint,
            images=len(self),
            corrupt=len(self.corrupt),
            splits=splits,
            not_read=dict(self.not_read),
            duplicates=None if self.digests is None else copies(self.digests),
        )

    def _labels_of(self, indices: np.ndarray) -> np.ndarray | None:
        return None if self.labels is None else self.labels[indices]

    def _in_pixels(self, indices: np.ndarray) -> np.ndarray:
        return indices if self._positions is None else self._positions[indices]

    def _checked(self, indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        if indices.size == 0:
            return indices.reshape(-1).astype(np.int64)
        if indices.ndim != 1 or indices.dtype.kind not in "iu":
            raise ConfigError(f"indices must be a one-dimensional integer array, got {indices.dtype} {indices.shape}")
        if indices.min() < 0 or indices.max() >= len(self):
            raise ConfigError(
                f"indices must be in 0..{len(self) - 1} for {len(self)} images of {self.name}, "
                f"got {indices.min()}..{indices.max()}"
            )
        return indices.astype(np.int64)
