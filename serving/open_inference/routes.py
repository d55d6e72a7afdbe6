"""Which path of the protocol answers what."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from ..answers import json_answer
from ..bodies import Part
from ..errors import Refusal
from ..models import Model
from ..routing import READ, Route, Routes
from ..worker import Worker
from . import metadata
from .request import parse
from .response import answer, tensors
from .schemas import ModelReady, ServerLive, ServerReady

_LENGTH = "inference-header-content-length"


def routes(worker: Worker) -> Routes:
    """/v2 and below; every path of a model also with its version."""

    async def server(_: Request) -> Response:
        return json_answer(metadata.SERVER)

    async def live(_: Request) -> Response:
        return json_answer(ServerLive(live=True))

    async def ready(_: Request) -> Response:
        return json_answer(ServerReady(ready=True))  # a worker takes requests once its guards are loaded and warm

    async def describe(request: Request) -> Response:
        model = _named(worker, request)
        return json_answer(metadata.model_metadata(model.name, model.manifest, model.guard.runtime.name))

    async def model_ready(request: Request) -> Response:
        return json_answer(ModelReady(name=_named(worker, request).name, ready=True))

    async def infer(request: Request) -> Response:
        return await _infer(worker, request)

    found = {
        "/v2": Route(server, READ),
        "/v2/health/live": Route(live, READ, open=True),
        "/v2/health/ready": Route(ready, READ, open=True),
    }
    for path in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        found |= {path: Route(describe, READ), f"{path}/ready": Route(model_ready, READ), f"{path}/infer": Route(infer)}
    return found


def _named(worker: Worker, request: Request) -> Model:
    """The model of a path.

    Raises:
        Refusal: 404, there is none of that name, or not in that version.
    """
    model = worker.models.get(request.path_params["name"])
    served = metadata.version(model.manifest)
    if request.path_params.get("version", served) != served:
        raise Refusal(404, f"model {model.name!r} is served in version {served!r} only")
    return model


async def _infer(worker: Worker, request: Request) -> Response:
    settings = worker.settings
    async with (
        _named(worker, request).used() as model,
        worker.body(request, settings.max_batch_bytes, "GUARD_MAX_BATCH_BYTES") as body,
    ):
        asked = await model.engine.in_thread(
            lambda: parse(
                body,
                request.headers.get(_LENGTH),
                model.manifest,
                most_images=settings.max_batch_images,
                most_json=settings.max_json_bytes,
            )
        )
        sources: list[Callable[[], Part]] = [
            lambda image=image, where=f"image {i}: ": Part(image, where)  # type: ignore
            for i, image in enumerate(asked.images)
        ]
        scored = await worker.verdicts(request, model, sources)
    return answer(asked, model.name, model.manifest, tensors(scored, model.manifest, asked.threshold))
