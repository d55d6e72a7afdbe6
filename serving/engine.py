"""The guard at work: every image is decoded and checked by itself, and only sound pixels join a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from guard.artefact.load import load
from guard.deep_images import watched
from guard.detector import Guard
from guard.errors import ImageError
from guard.preprocess import to_input

from .batching import MicroBatcher
from .bodies import Part
from .errors import Refusal
from .scored import Scored, each
from .settings import Settings

#: Recognised by content, whatever a name or header claims. These are what browsers and cameras send. No TIFF: a crafted
#: one declares tiles larger than its image, so the size in its header bounds nothing.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

#: What takes no longer is done on the event loop, which nobody else then waits for: decoding an image of this many
#: encoded bytes and pixels, and a batch of this many seconds.
SMALL_BYTES = 32 * 1024
_SMALL_PIXELS = 128 * 1024
_HERE_S = 0.01
_ALONE_S = 0.03  # for an image that comes alone: as long may a health check wait that comes meanwhile

T = TypeVar("T")


def load_guard(path: Path, settings: Settings) -> Guard:
    """The guard, scored once: what cannot run fails here and not in a request, and the first request is not slow.

    On a GPU also a full batch, for the first of a size may compile and takes memory."""
    g = load(path, device=settings.device, threads=settings.worker_threads, tuned_for="throughput")
    shape = g.manifest.preprocess
    for n in (1,) if g.runtime.device == "cpu" else (1, settings.batch_size):
        g.predict_batches([np.zeros((n, shape.height, shape.width, shape.channels), np.uint8)])
    return g


class Engine:
    """Decodes in a few threads, scores in one, and never blocks the event loop.

    Args:
        on_batch: told the size of every batch that was scored.
    """

    def __init__(self, g: Guard, settings: Settings, *, on_batch: Callable[[int], None]) -> None:
        self.guard = g
        self._settings = settings
        self._on_batch = on_batch
        self._decoders = ThreadPoolExecutor(settings.worker_threads, thread_name_prefix="guard-decode")
        # what a GPU takes is no processor time, so that waiting for it must not hold the event loop
        self._batcher = MicroBatcher(
            self._score,
            max_batch=settings.batch_size,
            wait_s=settings.batch_wait_ms / 1000,
            here_s=_HERE_S if g.runtime.device == "cpu" else 0.0,
            alone_s=_ALONE_S if g.runtime.device == "cpu" else 0.0,
        )

    async def open(self) -> None:
        """Begin to take images."""
        await self._batcher.__aenter__()

    async def close(self) -> None:
        """End the threads; nothing may be under way."""
        await self._batcher.__aexit__()
        self._decoders.shutdown()

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` beside the event loop, at most `worker_threads` at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def pixels(self, part: Part) -> np.ndarray:
        """uint8 (H, W, C) as the graph takes it.

        Raises:
            Refusal: 400 not an image that we take, or damaged; 413 too many bytes.
        """
        if isinstance(part.data, np.ndarray):
            return part.data
        if len(part.data) > self._settings.max_bytes:
            raise Refusal(
                413,
                f"{part.where}the image has {len(part.data)} bytes, at most {self._settings.max_bytes} are accepted; "
                "send a smaller one (GUARD_MAX_BYTES sets this)",
            )
        config, most = self.guard.manifest.preprocess, self._settings.max_pixels
        try:
            with watched() as deep:
                pixels = to_input(part.data, config, max_pixels=most, formats=FORMATS)
            deep.warn("requests", 1, once=True)
            return pixels
        except ImageError as error:
            raise Refusal(400, f"{part.where}{error}") from None

    def small_pixels(self, part: Part) -> np.ndarray | None:
        """`pixels` where that takes a moment only, for the event loop; else None, and so for what is not an image."""
        if not isinstance(part.data, bytes) or len(part.data) > SMALL_BYTES:
            return None
        most = min(_SMALL_PIXELS, self._settings.max_pixels)
        try:
            return to_input(part.data, self.guard.manifest.preprocess, max_pixels=most, formats=FORMATS)
        except ImageError:
            return None

    async def verdict(self, pixels: np.ndarray, *, alone: bool = False) -> Scored:
        """The verdict on one image from `pixels`; `alone` where no other request is open."""
        if alone and (found := self._batcher.at_once(pixels)):
            return found[0]
        return await self._batcher.submit(pixels)

    def _score(self, batch: np.ndarray) -> list[Scored]:
        verdicts = each(self.guard.predict_batches([batch]))
        self._on_batch(len(batch))
        return verdicts
