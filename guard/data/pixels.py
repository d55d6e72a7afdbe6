"""Where decoded pixels live: one array (in memory or memory-mapped), or nowhere until they are asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..manifest import Preprocess
from .decoding import decode
from .forms import Source

IN_MEMORY_BYTES = 512 * 2**20
MEMORY_MAP_BYTES = 2**30
SMALL_SIDE = 64  # pixels; images of at most this side are kept decoded, and a small-image net suits them


class ArrayPixels:
    """All images in one read-only uint8 array (M, H, W, C)."""

    def __init__(self, array: np.ndarray) -> None:
        self.array: np.ndarray | None = array.view()
        self.array.flags.writeable = False

    def batches(self, groups: list[np.ndarray]) -> Iterator[np.ndarray]:
        array = self.array
        if array is None:
            raise RuntimeError("ArrayPixels without an array")
        return (np.asarray(array[group]) for group in groups)


class StreamedPixels:
    """Images decoded when asked for, ahead of use, in worker processes; every image was decoded once at loading."""

    array: np.ndarray | None = None

    def __init__(self, source: Source, config: Preprocess, *, workers: int, max_pixels: int) -> None:
        self.source, self._config, self._workers, self._max_pixels = source, config, workers, max_pixels

    def batches(self, groups: list[np.ndarray]) -> Iterator[np.ndarray]:
        # one group is decoded here: starting processes for it would take longer
        workers = self._workers if len(groups) > 1 else 0
        stream = decode(self.source, groups, self._config, workers=workers, max_pixels=self._max_pixels)
        for group, decoded in zip(groups, stream, strict=True):
            if decoded.failures:
                position, reason = decoded.failures[0]
                raise DataError(
                    f"{self.source.where(int(group[position]))}{reason}; it was readable when the data was loaded: "
                    "do not change files while they are in use"
                )
            yield decoded.images


def fits_in_array(count: int, config: Preprocess) -> bool:
    """Small images, or few: decode once. Else stream."""
    small = max(config.height, config.width) <= SMALL_SIDE
    return small or array_bytes(count, config) <= IN_MEMORY_BYTES


def array_bytes(count: int, config: Preprocess) -> int:
    return count * config.height * config.width * config.channels


def new_array(count: int, config: Preprocess, scratch: Path | None) -> np.ndarray:
    """An empty uint8 (count, H, W, C); above 1 GiB in a scratch file that vanishes with it, also after a crash."""
    shape = (count, config.height, config.width, config.channels)
    if array_bytes(count, config) <= MEMORY_MAP_BYTES:
        return np.empty(shape, np.uint8)
    return np.memmap(scratch_file(scratch, array_bytes(count, config)), np.uint8, "r+", shape=shape)


def scratch_file(folder: Path | None, size: int = 0) -> Any:
    """A nameless temporary file (of `size` bytes, really reserved) that the system removes when it is closed.

    Raises:
        DataError: no room, or no such folder can be made.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder, prefix="ood-guard-")  # noqa: SIM115 - lives as long as its owner
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk now, not a bus error at the first write
        elif size:
            file.truncate(size)
    except OSError as error:
        where = folder or tempfile.gettempdir()
        raise DataError(
            f"cannot reserve {size / 2**30:.1f} GiB in {where} ({error.strerror}); give cache_dir= a folder with room"
        ) from None
    return file
