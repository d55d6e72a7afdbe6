"""GET /drift and POST /admin/drift/reset: what a guard's drift test found, and the order to begin anew."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from guard.monitoring import DriftReport
from guard.monitoring.shared import SharedMonitor

from .errors import Refusal
from .routing import READ, Route, Routes
from .token import Token
from .worker import Worker

logger = logging.getLogger("guard.serving")


def routes(worker: Worker) -> Routes:
    """The two paths; each takes ?model=. The order needs a token."""
    secret = worker.settings.token
    token = Token(secret.get_secret_value() if secret else None)

    def test_of(request: Request) -> SharedMonitor:
        model = worker.models.get(request.query_params.get("model"))
        test = worker.drift.test(model)
        if test is None:
            why = "the guard is not calibrated" if model.manifest.calibration is None else "see GUARD_DRIFT and the log"
            raise Refusal(404, f"no drift test runs for {model.name}: {why}")
        return test

    async def read(request: Request) -> Response:
        return _answer(await asyncio.to_thread(test_of(request).report))

    async def reset(request: Request) -> Response:
        token.demand(request.headers)
        test = test_of(request)
        logger.info("the drift test of %s begins anew, by order", test.monitor.model)
        return _answer(await asyncio.to_thread(test.reset))

    return {"/drift": Route(read, READ, query=("model",)), "/admin/drift/reset": Route(reset, query=("model",))}


def _answer(report: DriftReport) -> Response:
    return Response(report.model_dump_json(), media_type="application/json")
