"""POST /explain: the verdict on one image, and what is behind it. What the page asks for."""

from __future__ import annotations

import dataclasses

from starlette.requests import Request
from starlette.responses import Response

from guard.explanation import explain

from .answers import json_answer
from .bodies import multipart_boundary
from .predict import FORM_BYTES, one_part
from .routing import Route, Routes
from .schemas import Answer, Explained
from .worker import Worker


def routes(worker: Worker) -> Routes:
    """The path; its body is that of /predict."""

    async def answer(request: Request) -> Response:
        boundary = multipart_boundary(request.headers.get("content-type"))
        limit = worker.settings.max_bytes + (0 if boundary is None else FORM_BYTES)
        async with (
            worker.models.get(request.query_params.get("model")).used() as model,
            worker.body(request, limit, "GUARD_MAX_BYTES") as body,
        ):
            # counted and batched like every image; then once more by itself, for what verdicts do not hold
            (verdict,) = await worker.verdicts(request, model, [lambda: one_part(body, boundary)])
            more = await model.engine.in_thread(
                lambda: explain(model.guard, model.engine.pixels(one_part(body, boundary)))
            )
            behind = {
                name: [dataclasses.asdict(x) for x in getattr(more, name)] for name in ("top", "parts", "nearest")
            }
        return json_answer(Explained.model_validate({"answer": Answer.of(verdict, model.identity), **behind}))

    return {"/explain": Route(answer, query=("model",))}
