"""GET /openapi.json."""

from __future__ import annotations

import functools
import json

from starlette.requests import Request
from starlette.responses import Response

from ..open_inference.metadata import version
from ..routing import READ, Route, Routes
from ..worker import Worker
from .document import document


def routes(worker: Worker) -> Routes:
    """The one path; the document is made again when the guards are others."""

    @functools.lru_cache(maxsize=1)
    def text(models: tuple[tuple[str, str], ...]) -> str:
        return json.dumps(document(worker.routes, token=worker.settings.token is not None, models=dict(models)))

    async def read(_: Request) -> Response:
        served = tuple((model.name, version(model.manifest)) for model in worker.models.all())
        return Response(text(served), media_type="application/json")

    return {"/openapi.json": Route(read, READ)}
