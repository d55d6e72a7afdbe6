"""GET /drift: what the drift test of a guard found."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from guard.monitoring import DriftReport
from guard.monitoring.shared import SharedMonitor

from .errors import Refusal
from .routing import READ, Route, Routes
from .worker import Worker


def routes(worker: Worker) -> Routes:
    """The path; it takes ?model=."""

    def test_of(request: Request) -> SharedMonitor:
        model = worker.models.get(request.query_params.get("model"))
        test = worker.drift.test(model)
        if test is None:
            why = "the guard is not calibrated" if model.manifest.calibration is None else "see GUARD_DRIFT and the log"
            raise Refusal(404, f"no drift test runs for {model.name}: {why}")
        return test

    async def read(request: Request) -> Response:
        return _answer(await asyncio.to_thread(test_of(request).report))

    return {"/drift": Route(read, READ, query=("model",))}


def _answer(report: DriftReport) -> Response:
    return Response(report.model_dump_json(), media_type="application/json")
