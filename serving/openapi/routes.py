"""GET /openapi.json."""

from __future__ import annotations

import functools
import json

from starlette.requests import Request
from starlette.responses import Response

from ..routing import READ, Route, Routes
from ..worker import Worker
from .document import document


def routes(worker: Worker) -> Routes:
    """The one path; the document is made when somebody first asks, of all routes that there are by then."""

    @functools.cache
    def text() -> str:
        return json.dumps(document(worker.routes, token=worker.settings.token is not None))

    async def read(_: Request) -> Response:
        return Response(text(), media_type="application/json")

    return {"/openapi.json": Route(read, READ)}
