"""Decode groups of images in order, ahead of their use, in worker processes.

Processes are forked where the system can fork: a plain script without ``if __name__ == "__main__"`` then works, and a
data set defined in it reaches the workers. Elsewhere (Windows, macOS) threads do the work; Pillow releases the
interpreter's lock while it decodes and resizes. Results come back through pipes, not through /dev/shm, whose 64 MB in
many containers ends a data loader with a bus error.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import DataError, ImageError, MissingDataError
from ..manifest import Preprocess
from ..preprocess import to_input
from .copies import DIGEST, pixel_digest
from .forms import Source

_AHEAD_PER_WORKER = 2
_PARENT_POLL_S = 2.0


@dataclass(frozen=True)
class Decoded:
    """One group of `count` rows: `images` uint8 (good, H, W, C); (position, reason) of each that could not be read.

    Where images are only checked there are none, but `digests` (good,) uint64 of their pixels (`copies.pixel_digest`).
    """

    images: np.ndarray
    failures: tuple[tuple[int, str], ...]
    count: int
    digests: np.ndarray


def decode(
    source: Source,
    groups: Iterable[np.ndarray],
    config: Preprocess,
    *,
    workers: int,
    max_pixels: int,
    check_only: bool = False,
) -> Generator[Decoded, None, None]:
    """Decode each group of rows of `source`, in the order given.

    Args:
        groups: int64 (b,) arrays of rows.
        workers: processes; 0 decodes here.
        max_pixels: width x height allowed per image.
        check_only: decode, but return no pixels, only their digests.

    Raises:
        DataError: a worker process died.
    """
    settings = (config, max_pixels, check_only)
    if workers < 1:
        for rows in groups:
            yield decode_items(source.items(rows), *settings)
        return
    with _Pool(source, workers) as pool:
        waiting: collections.deque[Future[Decoded]] = collections.deque()
        for rows in groups:
            if len(waiting) >= _AHEAD_PER_WORKER * workers:
                yield _result(waiting.popleft())
            waiting.append(pool.submit(rows, settings))
        while waiting:
            yield _result(waiting.popleft())


class _Pool:
    """An executor whose unfinished work is dropped on leaving, also when a generator is closed half-way."""

    def __init__(self, source: Source, workers: int) -> None:
        self._source = source
        self._forks = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
        self._executor: Executor
        if self._forks:
            context = multiprocessing.get_context("fork")
            self._executor = ProcessPoolExecutor(
                workers, context, _start_worker, (os.getpid(), source if source.read_in_worker else None)
            )
        else:
            self._executor = ThreadPoolExecutor(workers)

    def submit(self, rows: np.ndarray, settings: tuple[Preprocess, int, bool]) -> Future[Decoded]:
        if not self._source.read_in_worker:
            return self._executor.submit(decode_items, self._source.items(rows), *settings)
        if self._forks:
            return self._executor.submit(_decode_rows, rows, *settings)
        return self._executor.submit(lambda: decode_items(self._source.items(rows), *settings))

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Decoded]) -> Decoded:
    try:
        return future.result()
    except BrokenExecutor:
        raise DataError(
            "a process that decodes images was killed (out of memory?); use fewer workers, or workers=0"
        ) from None


def decode_items(items: list[Any], config: Preprocess, max_pixels: int, check_only: bool = False) -> Decoded:
    """What a `Source` gave for some rows, decoded in this process; arguments as in `decode`."""
    images: list[np.ndarray] = []
    digests: list[int] = []
    failures: list[tuple[int, str]] = []
    for position, item in enumerate(items):
        try:
            if isinstance(item, ImageError):
                raise item
            pixels = to_input(item, config, max_pixels=max_pixels)
        except (ImageError, MissingDataError) as error:
            failures.append((position, str(error)))
            continue
        if check_only:
            digests.append(pixel_digest(pixels))
        else:
            images.append(pixels)
    shape = (0, config.height, config.width, config.channels)
    stacked = np.stack(images) if images else np.zeros(shape, np.uint8)
    return Decoded(stacked, tuple(failures), len(items), np.array(digests, DIGEST))


# ------------------------------------------------------------------------------------------- in the worker processes

_source_here: Source | None = None


def _start_worker(parent: int, source: Source | None) -> None:
    global _source_here
    _source_here = source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if "torch" in sys.modules:  # a forked process must not use the parent's OpenMP threads
        sys.modules["torch"].set_num_threads(1)
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()


def _leave_with(parent: int) -> None:
    """Exit when the parent is gone, even by kill -9: its pipes stay open in the sibling workers."""
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_S)
    os._exit(1)


def _decode_rows(rows: np.ndarray, config: Preprocess, max_pixels: int, check_only: bool) -> Decoded:
    if _source_here is None:
        raise RuntimeError("this worker was started without a source")
    return decode_items(_source_here.items(rows), config, max_pixels, check_only)
