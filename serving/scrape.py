"""GET /metrics, for Prometheus to scrape."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from .routing import READ, Route, Routes
from .worker import Worker


def routes(worker: Worker) -> Routes:
    """/metrics: what `metrics.py` lists, of all workers."""

    async def read(_: Request) -> Response:
        text = await asyncio.to_thread(worker.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return {"/metrics": Route(read, READ)}
