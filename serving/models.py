"""The guards that a worker serves: each loaded, warm and closed as one `Model`; `Models` finds them by name.

    GUARD_MODEL=guard.onnx                 one guard, called "guard"
    GUARD_MODELS=pets=a.onnx,cars=b.onnx   several; ?model=cars chooses, the first is the default

A swap is one assignment: a request takes its model once and keeps it to its end, and a model that was replaced is
closed when its last request has ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from guard.detector import Guard
from guard.errors import ArtefactDamagedError
from guard.manifest import Manifest

from .control import POLL_S, Control, Served
from .engine import Engine, load_guard
from .errors import Refusal
from .schemas import model_card
from .settings import Settings

logger = logging.getLogger("guard.serving")


class Model:
    """One loaded guard, its engine and its card.

    Attributes:
        name: what ``?model=`` and the metrics' label say.
        path: the file or folder it was loaded from.
        card: the body of GET /model.
        decision: which weights answer, and by which calibration: a guard that is calibrated again keeps its identity.
    """

    def __init__(self, name: str, path: Path, g: Guard, settings: Settings, on_batch: Callable[[int], None]) -> None:
        self.name = name
        self.path = path
        self.guard = g
        self.card = json.dumps(model_card(g.manifest, name)).encode()
        calibration = g.manifest.calibration
        told = "" if calibration is None else calibration.model_dump_json()
        self.decision = f"{self.identity}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        self.engine = Engine(g, settings, on_batch=on_batch)
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def manifest(self) -> Manifest:
        return self.guard.manifest

    @property
    def identity(self) -> str:
        """``name@short-hash`` of the artefact."""
        return self.guard.manifest.identity

    @asynccontextmanager
    async def used(self) -> AsyncIterator[Model]:
        """For the length of a request: the model is not closed before."""
        self._users += 1
        self._unused.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def close(self) -> None:
        """Let the requests under way end, then free the threads."""
        await self._unused.wait()
        await self.engine.close()


class Models:
    """The guards by name.

    Args:
        settings: which guards, and on what they run.
        control: what all workers serve since the last reload.
        on_open: told every model before it is served, also after a swap.
        on_batch: told the size of every batch that was scored.
    """

    def __init__(
        self,
        settings: Settings,
        control: Control,
        *,
        on_open: Callable[[Model], None],
        on_batch: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._control = control
        self._on_open = on_open
        self._on_batch = on_batch
        self._models: dict[str, Model] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._following: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Load all, and from now on follow what the control folder names.

        Raises:
            GuardError: the first that cannot be served.
        """
        changed = self._control.changed_ns()
        now = self._control.read()
        for name, path in self._settings.model_paths().items():
            served = now.models.get(name)
            self._put(await self._loaded(name, served.path if served else path))
        await asyncio.to_thread(self._control.report, now.generation)
        self._following = asyncio.create_task(self._follow(changed))

    async def close(self) -> None:
        """Let the requests under way end."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await asyncio.gather(*(model.close() for model in self._models.values()), *self._closing)

    def all(self) -> list[Model]:
        """In the order of the settings; the first is the default."""
        return list(self._models.values())

    def get(self, name: str | None = None) -> Model:
        """The model of that name, or the default.

        Raises:
            Refusal: 404, there is none of that name.
        """
        if name is None:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise Refusal(404, f"no model {name[:60]!r} is served here; there are {', '.join(self._models)}")
        return self._models[name]

    async def _follow(self, seen: int) -> None:
        """Swap whatever a reload has published; what cannot be loaded here leaves the old one serving."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if (changed := self._control.changed_ns()) == seen:
                    continue
                seen, now, error = changed, self._control.read(), None
                for name, served in now.models.items():
                    try:
                        await self._swap(name, served)
                    except Exception as failure:
                        error = f"worker {os.getpid()} keeps {self._models[name].identity}: {failure}"
                        logger.exception("%s cannot be replaced", name)
                await asyncio.to_thread(self._control.report, now.generation, error)
            except OSError:  # the folder; it is looked at again
                logger.exception("what to serve cannot be read")

    async def _swap(self, name: str, served: Served) -> None:
        if self._models[name].path == served.path:
            return
        model = await self._loaded(name, served.path)
        if model.identity != served.identity:
            await model.close()
            raise ArtefactDamagedError(f"{served.path.name} is {model.identity}, and not {served.identity}")
        before = self._models[name].identity
        self._put(model)
        logger.info("serving %s as %s in place of %s", model.identity, name, before)

    async def _loaded(self, name: str, path: Path) -> Model:
        g = await asyncio.to_thread(load_guard, path, self._settings)
        model = Model(name, path, g, self._settings, self._on_batch)
        await model.engine.open()
        return model

    def _put(self, model: Model) -> None:
        self._on_open(model)
        before = self._models.get(model.name)
        self._models[model.name] = model
        if before is not None:
            closing = asyncio.create_task(before.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
