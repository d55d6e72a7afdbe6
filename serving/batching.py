"""A greedy micro-batcher: score what is waiting, and let the next batch fill up meanwhile.

    submit(image) -> waiting --up to max_batch--> run(stack) in one thread -> one result per caller

It never waits for a batch to fill unless told to, so a lone request pays nothing; under load the batch grows by
itself with the time that a run takes. What is submitted has been decoded and checked: every image has the graph's
shape, so no caller can spoil the batch of another.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

Result = TypeVar("Result")
logger = logging.getLogger("guard.serving")


class MicroBatcher(Generic[Result]):
    """Gathers single images into batches for `run`.

    Args:
        run: uint8 (n, H, W, C), 1 <= n <= max_batch -> n results, in order; called in one thread, never concurrently.
        max_batch: most images in one call.
        wait_s: seconds to wait for more images before each call; 0 takes what is there.
        here_s: a batch that takes no more of the processor's time, by those before it, is run on the event loop: for a
            small graph the way to a thread and back takes longer than the run. 0 for never.
        alone_s: the same for an image that nobody else waits beside (`at_once`).
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], Sequence[Result]],
        *,
        max_batch: int,
        wait_s: float = 0.0,
        here_s: float = 0.0,
        alone_s: float = 0.0,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._wait_s = wait_s
        self._here_s = here_s
        self._alone_s = alone_s
        self._per_image_s = math.inf  # a running mean, of the processor's time: other programs may be busy
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[Result]]] = deque()
        self._busy = False
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="guard-run")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> MicroBatcher[Result]:
        self._task = asyncio.create_task(self._loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _image, future in self._waiting:
            future.cancel()
        self._thread.shutdown()

    async def submit(self, image: np.ndarray) -> Result:
        """The result for one uint8 (H, W, C); a caller that is cancelled while waiting takes no part in a batch.

        Raises:
            Exception: whatever `run` raised for this image on its own.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, future))
        self._arrived.set()
        return await future

    def at_once(self, image: np.ndarray) -> list[Result]:
        """The result for one image, run here and now: for an event loop on which nobody else waits, where tasks and
        futures take as long as a small graph. Empty where something runs or waits, or a run takes over `alone_s`.

        Raises:
            Exception: whatever `run` raised.
        """
        if self._busy or self._waiting or self._per_image_s > self._alone_s:
            return []
        return list(self._timed([image]))

    async def _loop(self) -> None:
        while True:
            await self._arrived.wait()
            if self._wait_s and len(self._waiting) < self._max_batch:
                await asyncio.sleep(self._wait_s)
            batch = self._take()
            if batch:
                self._busy = True
                await self._answer(batch)
                self._busy = False

    def _take(self) -> list[tuple[np.ndarray, asyncio.Future[Result]]]:
        batch: list[tuple[np.ndarray, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._max_batch:
            item = self._waiting.popleft()
            if not item[1].done():
                batch.append(item)
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _answer(self, batch: list[tuple[np.ndarray, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._per_image_s * len(batch) <= self._here_s:
                results = self._timed([image for image, _ in batch])
                await asyncio.sleep(0)  # let the others in, whatever waits here
            else:
                results = await loop.run_in_executor(self._thread, self._timed, [image for image, _ in batch])
            answers = list(zip(batch, results, strict=True))
        except asyncio.CancelledError:  # the service stops
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0][1], error=error)
                return
            logger.exception("a batch of %d failed; its images are scored one by one", len(batch))
            for item in batch:
                await self._answer([item])
            return
        for (_, future), result in answers:
            _settle(future, result=result)

    def _timed(self, images: list[np.ndarray]) -> Sequence[Result]:
        began = time.thread_time()
        results = self._run(images[0][np.newaxis] if len(images) == 1 else np.stack(images))
        seconds = (time.thread_time() - began) / len(images)
        known = math.isfinite(self._per_image_s)
        self._per_image_s = 0.9 * self._per_image_s + 0.1 * seconds if known else seconds
        return results


def _settle(future: asyncio.Future[Result], *, result: Result | None = None, error: Exception | None = None) -> None:
    if future.done():  # its caller gave up meanwhile
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)  # type: ignore[arg-type]
