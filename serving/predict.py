"""POST /predict and /predict_batch: images in, verdicts out; and GET /model, the card of what gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import Request
from starlette.responses import Response

from .answers import json_answer
from .bodies import Part, form_images, multipart_boundary
from .engine import SMALL_BYTES
from .errors import Refusal
from .models import Model
from .routing import READ, Route, Routes
from .schemas import Answer, BatchAnswer
from .worker import Worker

FORM_BYTES = 4096  # a form adds its own lines to the image's bytes, which are counted exactly once they are parsed


def routes(worker: Worker) -> Routes:
    """The three paths; each takes ?model=."""
    settings = worker.settings

    async def predict(request: Request) -> Response:
        async with one_image(worker, request) as (model, source, size):
            (verdict,) = await worker.verdicts(request, model, [source], small=size <= SMALL_BYTES)
        return json_answer(Answer.of(verdict, model.identity))

    async def predict_batch(request: Request) -> Response:
        boundary = multipart_boundary(request.headers.get("content-type"))
        if boundary is None:
            raise Refusal(400, "send multipart/form-data with the images in the field 'images'; a raw image: /predict")
        async with (
            worker.models.get(request.query_params.get("model")).used() as model,
            worker.body(request, settings.max_batch_bytes, "GUARD_MAX_BATCH_BYTES") as body,
        ):
            most = settings.max_batch_images
            parts = await model.engine.in_thread(lambda: form_images(body, boundary, ("images", "image"), most=most))
            verdicts = await worker.verdicts(request, model, [lambda part=part: part for part in parts])  # type: ignore[misc]
        return json_answer(BatchAnswer(verdicts=tuple(Answer.of(verdict, model.identity) for verdict in verdicts)))

    async def card(request: Request) -> Response:
        model = worker.models.get(request.query_params.get("model"))
        return Response(model.card, media_type="application/json")

    return {
        "/predict": Route(predict, query=("model",)),
        "/predict_batch": Route(predict_batch, query=("model",)),
        "/model": Route(card, READ, query=("model",)),
    }


@asynccontextmanager
async def one_image(worker: Worker, request: Request) -> AsyncIterator[tuple[Model, Callable[[], Part], int]]:
    """The model that is asked for, what gives the one image of the request (in a form, or the body itself), and the
    body's bytes; both are held until the block ends."""
    boundary = multipart_boundary(request.headers.get("content-type"))
    limit = worker.settings.max_bytes + (0 if boundary is None else FORM_BYTES)
    async with (
        worker.models.get(_asked_model(request)).used() as model,
        worker.body(request, limit, "GUARD_MAX_BYTES") as body,
    ):

        def source() -> Part:
            return Part(body) if boundary is None else form_images(body, boundary, ("image",), most=1)[0]

        yield model, source, len(body)


def _asked_model(request: Request) -> str | None:
    """?model=; most requests have no query, which costs nothing to see."""
    return request.query_params.get("model") if request.scope["query_string"] else None
