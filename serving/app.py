"""The HTTP contract as a Starlette application: which path answers what, and which sentence says why not.

    request -> route -> handler (predict.py and the other families) -> answer, or a status and a sentence

It is mounted in the BentoML service (`service.py`) and owns every path but /livez, /readyz and /healthz. Bodies are
read here and not by BentoML's endpoints, which answer 500 to a damaged image, fetch strings in image fields as URLs
and know no limits.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Catch
from starlette.types import Receive, Scope, Send

from . import admin, drift, explain, logs, predict, scrape, ui
from .answers import error_answer
from .cors import Origins
from .errors import Refusal, overloaded
from .open_inference import routes as open_inference
from .openapi import routes as openapi
from .protection import protect
from .routing import Route, Router
from .settings import Settings
from .token import Token
from .worker import Worker

logger = logging.getLogger("guard.serving")

#: The families of endpoints: modules with `routes(worker)`. One path belongs to one of them.
FAMILIES = (
    predict,
    explain,
    drift,
    admin,
    scrape,
    ui,
    open_inference,
    openapi,
)

HEALTH = ("/livez", "/readyz", "/healthz")  # BentoML's; what reaches us has the wrong method


class App:
    """The routes and what they share; one per worker, filled when the worker starts.

    Args:
        settings: limits and which guards.
        on_start_failure: told the exception when a guard cannot be loaded; the exception is then raised.
    """

    def __init__(self, settings: Settings, *, on_start_failure: Callable[[Exception], None] | None = None) -> None:
        self.worker = Worker(settings)
        self._on_start_failure = on_start_failure
        self._origins = Origins(settings.origins)
        self._token = Token(settings.token.get_secret_value() if settings.token else None)
        self._router = Router(*(family.routes(self.worker) for family in FAMILIES))
        self.worker.routes = self._router.routes
        # one route for all: what BentoML serves beside us (a Swagger page with scripts from the internet) stays hidden
        route = Catch("/{path:path}", self._answer, methods=None)
        route.methods = None  # every method reaches us, so that the wrong ones get their sentence
        self.asgi: Starlette = Starlette(routes=[route], lifespan=self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, without a router before it."""
        response = await self._answer(Request(scope, receive, send))
        await response(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        if self.worker.settings.log == "json":
            logs.use_json()
        try:
            await self.worker.open()
        except Exception as error:
            if self._on_start_failure is not None:
                self._on_start_failure(error)
            raise
        _freeze()
        for model in self.worker.models.all():
            runtime = model.guard.runtime
            logger.info("serving %s as %s on %s, %s", model.identity, model.name, runtime.name, runtime.device)
        try:
            yield
        finally:
            await self.worker.close()

    async def _answer(self, request: Request) -> Response:
        """Every request: find its handler, hold its time, turn what goes wrong into a status and a sentence."""
        started = time.perf_counter()
        path, found, endpoint = self._received(request)
        try:
            if found is None:
                self._token.check(request.headers)
                raise self._unknown(path)
            request.scope["path_params"] = found[1]
            response = await self._dispatch(path, self._router.routes[endpoint], request)
        except Refusal as refusal:
            response = error_answer(refusal)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; the number is for the metrics
        except Exception:
            logger.exception("%s %s failed", request.method, endpoint)
            response = error_answer(Refusal(500, "the service failed on this request; its log says why"))
        return self._marked(request, endpoint, response, started)

    async def refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        """Answer a request without looking at it; marked, counted and logged as every other is."""
        started = time.perf_counter()
        request = Request(scope, receive, send)
        _, _, endpoint = self._received(request)
        await self._marked(request, endpoint, error_answer(refusal), started)(scope, receive, send)

    def _received(self, request: Request) -> tuple[str, tuple[str, dict[str, Any]] | None, str]:
        """Name the request; its path, what the router finds there, and what it is counted as."""
        request.state.request_id = logs.request_id(request.headers.get("x-request-id"))
        logs.current_id.set(request.state.request_id)
        path = request.scope["path"].rstrip("/") or "/"
        found = self._router.find(path)
        return path, found, "other" if found is None else found[0]

    def _marked(self, request: Request, endpoint: str, response: Response, started: float) -> Response:
        identity = request.state.request_id
        self._origins.mark(request, response)
        protect(response)
        response.headers["X-Request-Id"] = identity
        seconds = time.perf_counter() - started
        self.worker.metrics.request(endpoint, response.status_code, seconds)
        if self.worker.settings.access_log:
            logs.answered(request.method, endpoint, response.status_code, seconds, identity)
        return response

    def _unknown(self, path: str) -> Refusal:
        if path in HEALTH:
            return Refusal(405, f"{path} takes GET only", {"Allow": "GET, HEAD"})
        return Refusal(404, f"no such path; there are {', '.join(self._router.routes)}, /livez and /readyz")

    async def _dispatch(self, path: str, route: Route, request: Request) -> Response:
        if (preflight := self._origins.preflight(request, path, route.methods)) is not None:
            return preflight
        if not route.open:
            self._token.check(request.headers)
        if request.method not in route.methods:
            raise Refusal(405, f"{path} takes {route.methods[0]} only", {"Allow": ", ".join(route.methods)})
        _check_query(path, route, request)
        request.state.body_read = False
        timeout_s = self.worker.settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s) as request.state.time:
                return await route.handler(request)
        except TimeoutError:
            seconds = f"{timeout_s:g} seconds (GUARD_TIMEOUT_S)"
            if request.method == "POST" and not request.state.body_read:
                # not closed, the connection would keep feeding us a body that nobody waits for
                raise Refusal(408, f"the body did not arrive within {seconds}", {"Connection": "close"}) from None
            raise overloaded(f"no answer within {seconds}; the service is overloaded") from None


def _check_query(path: str, route: Route, request: Request) -> None:
    """Raises: Refusal: 400, a query parameter that is not read: it would be taken for heeded; or one given twice."""
    if not request.scope["query_string"]:
        return
    names = [name for name, _ in request.query_params.multi_items()]
    unread = list(dict.fromkeys(name for name in names if name not in route.query))
    if unread:
        shown = ", ".join(repr(name[:40]) for name in unread[:4]) + (" ..." if len(unread) > 4 else "")
        own = "; compare the answer's ood_score with a threshold of your own" if "threshold" in unread else ""
        but = f" but {' and '.join(repr(name) for name in route.query)}" if route.query else ""
        raise Refusal(400, f"{path} takes no query parameters{but}, got {shown}; leave them out{own}")
    if twice := [name for name in route.query if names.count(name) > 1]:
        raise Refusal(400, f"the query parameter {twice[0]!r} is given {names.count(twice[0])} times; give it once")


def _freeze() -> None:
    """What is loaded by now stays: without this every full collection walks all of it, which the slowest 1 % of
    requests pay for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
