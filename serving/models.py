"""The guards that a worker serves: each loaded, warm and closed as one `Model`; `Models` finds them by name.

    GUARD_MODEL=guard.onnx                 one guard, called "guard"
    GUARD_MODELS=pets=a.onnx,cars=b.onnx   several; ?model=cars chooses, the first is the default

A swap is one assignment: a request takes its model once and keeps it to its end, and a model that was replaced is
closed when its last request has ended.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from guard.detector import Guard
from guard.manifest import Manifest

from .engine import Engine, load_guard
from .errors import Refusal
from .schemas import model_card
from .settings import Settings


class Model:
    """One loaded guard, its engine and its card.

    Attributes:
        name: what ``?model=`` and the metrics' label say.
        path: the file or folder it was loaded from.
        card: the body of GET /model.
    """

    def __init__(self, name: str, path: Path, g: Guard, settings: Settings, on_batch: Callable[[int], None]) -> None:
        self.name = name
        self.path = path
        self.guard = g
        self.card = json.dumps(model_card(g.manifest)).encode()
        self.engine = Engine(g, settings, on_batch=on_batch)
        self._users = 0
        self._retired = False
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
        on_open: told every model before it is served, also after a swap.
        on_batch: told the size of every batch that was scored.
    """

    def __init__(
        self, settings: Settings, *, on_open: Callable[[Model], None], on_batch: Callable[[int], None]
    ) -> None:
        self._settings = settings
        self._on_open = on_open
        self._on_batch = on_batch
        self._models: dict[str, Model] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Load all.

        Raises:
            GuardError: the first that cannot be served.
        """
        for name, path in self._settings.model_paths().items():
            self._put(await self._loaded(name, path))

    async def close(self) -> None:
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
