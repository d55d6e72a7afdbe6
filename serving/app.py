"""The HTTP contract as a Starlette application: which path answers what, and which sentence says why not.

    request -> counted body -> images (each decoded and checked alone) -> micro-batch -> verdict

It is mounted in the BentoML service (`service.py`) and owns every path but /livez, /readyz and /healthz. Bodies are
read here and not by BentoML's endpoints, which answer 500 to a damaged image, fetch strings in image fields as URLs
and know no limits.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from .bodies import Budget, Part, form_images, multipart_boundary, read_body
from .cors import Origins
from .engine import Engine, load_guard
from .errors import Refusal, overloaded
from .metrics import Metrics
from .schemas import Answer, BatchAnswer, Error, Schema, model_card
from .settings import Settings
from .ui import page_response

T = TypeVar("T")

logger = logging.getLogger("guard.serving")

_HEALTH = ("/livez", "/readyz", "/healthz")  # BentoML's; what reaches us has the wrong method

Handler = Callable[[Request], Awaitable[Response]]


class App:
    """The routes and what they share; one per worker, filled when the worker starts.

    Args:
        settings: limits and where the guard is.
        on_start_failure: told the exception when the guard cannot be loaded; the exception is then raised.
    """

    def __init__(self, settings: Settings, *, on_start_failure: Callable[[Exception], None] | None = None) -> None:
        self._settings = settings
        self._on_start_failure = on_start_failure
        self._origins = Origins(settings.origins)
        self._in_work = Budget(settings.max_concurrency)
        self._buffered = Budget(settings.max_buffered_bytes)
        self._engine: Engine
        self._metrics: Metrics
        self._card: bytes
        self._routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/predict": (("POST",), self._predict),
            "/predict_batch": (("POST",), self._predict_batch),
            "/model": (("GET", "HEAD"), self._model),
            "/metrics": (("GET", "HEAD"), self._read_metrics),
            "/ui": (("GET", "HEAD"), self._page),
            "/": (("GET", "HEAD"), self._home),
        }
        # one route for all: what BentoML serves beside us (a Swagger page with scripts from the internet) stays hidden
        route = Route("/{path:path}", self._answer, methods=None)
        route.methods = None  # every method reaches us, so that the wrong ones get their sentence
        self.asgi = Starlette(routes=[route], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        try:
            guard = load_guard(self._settings)
        except Exception as error:
            if self._on_start_failure is not None:
                self._on_start_failure(error)
            raise
        self._metrics = Metrics(guard.manifest, lambda: self._in_work.used)
        self._card = json.dumps(model_card(guard.manifest)).encode()
        async with Engine(guard, self._settings, on_batch=self._metrics.batch) as self._engine:
            _freeze()
            logger.info("serving %s on %s, %s", guard.manifest.identity, guard.runtime.name, guard.runtime.device)
            yield

    async def _answer(self, request: Request) -> Response:
        """Every request: find its handler, hold its time, turn what goes wrong into a status and a sentence."""
        started = time.perf_counter()
        path = request.url.path.rstrip("/") or "/"
        endpoint = path if path in self._routes else "other"
        try:
            response = await self._dispatch(path, request)
        except Refusal as refusal:
            response = _error(refusal)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads it; the number is for the metrics
        except Exception:
            logger.exception("%s %s failed", request.method, endpoint)
            response = _error(Refusal(500, "the service failed on this request; its log says why"))
        self._origins.mark(request, response)
        self._metrics.request(endpoint, response.status_code, time.perf_counter() - started)
        return response

    async def _dispatch(self, path: str, request: Request) -> Response:
        if path in _HEALTH:
            raise Refusal(405, f"{path} takes GET only", {"Allow": "GET, HEAD"})
        if path not in self._routes:
            raise Refusal(404, f"no such path; there are {', '.join(self._routes)}, /livez and /readyz")
        methods, handler = self._routes[path]
        if (preflight := self._origins.preflight(request, path, methods)) is not None:
            return preflight
        if request.method not in methods:
            raise Refusal(405, f"{path} takes {methods[0]} only", {"Allow": ", ".join(methods)})
        _no_query(path, request)
        request.state.body_read = False
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await handler(request)
        except TimeoutError:
            seconds = f"{self._settings.timeout_s:g} seconds (GUARD_TIMEOUT_S)"
            if methods == ("POST",) and not request.state.body_read:
                # not closed, the connection would keep feeding us a body that nobody waits for
                raise Refusal(408, f"the body did not arrive within {seconds}", {"Connection": "close"}) from None
            raise overloaded(f"no answer within {seconds}; the service is overloaded") from None

    @asynccontextmanager
    async def _body(self, request: Request, limit: int, setting: str) -> AsyncIterator[bytes]:
        body = await read_body(request, limit=limit, setting=setting, buffered=self._buffered)
        request.state.body_read = True
        try:
            yield body
        finally:
            self._buffered.give(len(body))

    async def _predict(self, request: Request) -> Response:
        boundary = multipart_boundary(request.headers.get("content-type"))
        # a form adds its own lines to the image's bytes, which are counted exactly once they are parsed
        limit = self._settings.max_bytes + (0 if boundary is None else 4096)
        async with self._body(request, limit, "GUARD_MAX_BYTES") as body:
            (answer,) = await self._verdicts([lambda: _one(body, boundary)])
        return _json(answer)

    async def _predict_batch(self, request: Request) -> Response:
        boundary = multipart_boundary(request.headers.get("content-type"))
        if boundary is None:
            raise Refusal(400, "send multipart/form-data with the images in the field 'images'; a raw image: /predict")
        async with self._body(request, self._settings.max_batch_bytes, "GUARD_MAX_BATCH_BYTES") as body:
            most = self._settings.max_batch_images
            parts = await self._engine.in_thread(lambda: form_images(body, boundary, ("images", "image"), most=most))
            answers = await self._verdicts([lambda part=part: part for part in parts])  # type: ignore[misc]
        return _json(BatchAnswer(verdicts=tuple(answers)))

    async def _verdicts(self, sources: list[Callable[[], Part]]) -> list[Answer]:
        """Decode all, then score all: one bad image refuses the request before anything is scored.

        Raises:
            Refusal: the first bad image's; 503 when the service is full.
        """
        engine = self._engine
        self._in_work.take(len(sources), "images")
        try:
            pixels = [
                engine.in_thread(lambda source=source: engine.pixels(source()))  # type: ignore[misc]
                for source in sources
            ]
            decoded = await _all(pixels)
            verdicts = await _all([engine.verdict(image) for image in decoded])
        finally:
            self._in_work.give(len(sources))
        for verdict in verdicts:
            self._metrics.verdict(verdict)
        return [Answer.of(verdict, engine.guard.manifest.identity) for verdict in verdicts]

    async def _model(self, _: Request) -> Response:
        return Response(self._card, media_type="application/json")

    async def _read_metrics(self, _: Request) -> Response:
        text = await asyncio.to_thread(self._metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _page(self, _: Request) -> Response:
        return page_response()

    async def _home(self, _: Request) -> Response:
        return RedirectResponse("ui", status_code=307)


def _no_query(path: str, request: Request) -> None:
    """Raises: Refusal: 400, a query parameter: one that is not read would be taken for heeded."""
    names = list(dict.fromkeys(request.query_params.keys()))
    if names:
        shown = ", ".join(repr(name[:40]) for name in names[:4]) + (" ..." if len(names) > 4 else "")
        own = "; compare the answer's ood_score with a threshold of your own" if "threshold" in names else ""
        raise Refusal(400, f"{path} takes no query parameters, got {shown}; leave them out{own}")


def _freeze() -> None:
    """What is loaded by now stays: without this every full collection walks all of it, which the slowest 1 % of
    requests pay for."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _all(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results in order, or the first error in order; nothing is left running unheard."""
    results = await asyncio.gather(*work, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


def _one(body: bytes, boundary: bytes | None) -> Part:
    """The one image of a /predict request, in a form or as the body itself."""
    if boundary is None:
        return Part(body)
    (part,) = form_images(body, boundary, ("image",), most=1)
    return part


def _json(answer: Schema, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    # pydantic writes numbers that are not finite as null; json.dumps would write NaN, which is not JSON
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")


def _error(refusal: Refusal) -> Response:
    return _json(Error(error=refusal.sentence), refusal.status, refusal.headers)
