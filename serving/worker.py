"""What one worker process holds, and the way of an image through it: budget, pixels, verdict, observers.

body -> parts -> pixels (each decoded and checked alone) -> micro-batch -> verdict -> every observer
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from starlette.requests import Request

from .bodies import Budget, Part, read_body
from .control import Control
from .drift_tests import DriftTests
from .engine import Engine
from .flagged import Flagged, FlaggedFolder, Keeper, line_of
from .metrics import Metrics
from .models import Model, Models
from .routing import Routes
from .scored import Scored
from .settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """One scored image, as observers get it.

    Attributes:
        model: that scored it.
        verdict: what it said.
        pixels: uint8 (H, W, C), as the graph took them.
        data: the encoded image as it was sent; None where pixels were sent.
        request: the request it came with.
    """

    model: Model
    verdict: Scored
    pixels: np.ndarray
    data: bytes | None
    request: Request


Observer = Callable[[Seen], None]
Decoded = tuple[np.ndarray, bytes | None]  # pixels, and the encoded image where one was sent


class Worker:
    """Shared by all endpoints of a process.

    Attributes:
        settings: limits and which guards.
        control: what all workers serve; made by `open`, as are
        models: the guards, and
        metrics: this process's counters.
        drift: the drift tests of the guards.
        in_work, buffered: budgets of images and of bytes of bodies.
        routes: all of the application that the worker answers for; filled by it.
        observers: each is called with every scored image, on the event loop: it must be quick and must not raise.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.in_work = Budget(settings.max_concurrency)
        self.buffered = Budget(settings.max_buffered_bytes)
        self.routes: Routes = {}
        self.observers: list[Observer] = []
        self.drift = DriftTests(settings)
        self.control: Control
        self.metrics: Metrics
        self.models: Models
        self._keeper: Keeper | None = None

    async def open(self) -> None:
        """Load the guards.

        Raises:
            GuardError: one cannot be served.
        """
        self.control = Control()
        self.metrics = Metrics(lambda: self.in_work.used, self.control.folder / "metrics")
        self.models = Models(self.settings, self.control, on_open=self._opened, on_batch=self.metrics.batch)
        self.observers.append(lambda seen: self.metrics.verdict(seen.model.name, seen.verdict))
        self.observers.append(lambda seen: self.drift.count(seen.model, seen.verdict))
        self.metrics.facts.append(lambda: self.drift.gauges(self.models.all()))
        if self.settings.keep_flagged is not None:
            self._keeper = Keeper(FlaggedFolder(self.settings.keep_flagged, self.settings.keep_flagged_bytes))
            self.observers.append(self._keep)
        await self.models.open()
        self.drift.start()

    async def close(self) -> None:
        """Let what is under way end."""
        await self.models.close()
        await self.drift.stop()
        if self._keeper is not None:
            await asyncio.to_thread(self._keeper.close)

    def _keep(self, seen: Seen) -> None:
        if self._keeper is not None and seen.verdict.is_ood:
            image = seen.pixels if seen.data is None else seen.data
            self._keeper.put(Flagged(image, line_of(seen.verdict, seen.model.identity, seen.request.state.request_id)))

    def _opened(self, model: Model) -> None:
        self.metrics.follow(model.name, model.manifest)
        self.drift.test(model)

    @asynccontextmanager
    async def body(self, request: Request, limit: int, setting: str) -> AsyncIterator[bytes]:
        """The whole body, charged to the budget until the block ends; raises as `read_body` does."""
        body = await read_body(request, limit=limit, setting=setting, buffered=self.buffered)
        request.state.body_read = True
        try:
            yield body
        finally:
            self.buffered.give(len(body))

    async def verdicts(
        self, request: Request, model: Model, sources: Sequence[Callable[[], Part]], *, small: bool = False
    ) -> list[Scored]:
        """The verdicts of `seen`."""
        return [one.verdict for one in await self.seen(request, model, sources, small=small)]

    async def seen(
        self, request: Request, model: Model, sources: Sequence[Callable[[], Part]], *, small: bool = False
    ) -> list[Seen]:
        """Decode all, then score all: one bad image refuses the request before anything is scored.

        Args:
            sources: called for one image each, beside the event loop.
            small: the one source takes a moment only and may be called on the event loop.

        Raises:
            Refusal: the first bad image's; 503 when the service is full.
        """
        engine = model.engine

        def decoded(source: Callable[[], Part]) -> Decoded:
            part = source()
            return engine.pixels(part), part.data if isinstance(part.data, bytes) else None

        self.in_work.take(len(sources), "images")
        try:
            images = self._at_once(engine, sources[0]) if small and len(sources) == 1 else None
            if images is None:
                images = await _all([engine.in_thread(functools.partial(decoded, source)) for source in sources])
            if alone := self.in_work.used == 1:
                await asyncio.sleep(0)  # whatever came meanwhile begins now, and makes a batch with this one
                alone = self.in_work.used == 1
            verdicts = await _all([engine.verdict(pixels, alone=alone) for pixels, _ in images])
        finally:
            self.in_work.give(len(sources))
        every = [
            Seen(model, verdict, pixels, data, request)
            for (pixels, data), verdict in zip(images, verdicts, strict=True)
        ]
        for one in every:
            for observer in self.observers:
                observer(one)
        return every

    def _at_once(self, engine: Engine, source: Callable[[], Part]) -> list[Decoded] | None:
        """The one image, decoded here; None where that would hold up the event loop, or fails."""
        part = source()
        pixels = engine.small_pixels(part)
        return None if pixels is None else [(pixels, part.data if isinstance(part.data, bytes) else None)]


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order, or the first error in order; nothing is left running unheard."""
    if len(work) == 1:  # without a task of its own
        return [await work[0]]
    results = await asyncio.gather(*work, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done
