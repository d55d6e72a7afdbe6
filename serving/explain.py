"""POST /explain: the verdict on one image, and what is behind it. What the page asks for."""

from __future__ import annotations

import dataclasses

from starlette.requests import Request
from starlette.responses import Response

from guard.explanation import behind

from .answers import json_answer
from .predict import one_image
from .routing import Route, Routes
from .schemas import Answer, Explained
from .worker import Worker


def routes(worker: Worker) -> Routes:
    """The path; its body is that of /predict."""

    async def answer(request: Request) -> Response:
        async with one_image(worker, request) as (model, source, _):
            (seen,) = await worker.seen(request, model, [source])  # counted and batched like every image
            verdict, pixels = seen.verdict, seen.pixels
            more = await model.engine.in_thread(lambda: behind(model.guard, verdict, verdict.probabilities, pixels))
            told = {name: [dataclasses.asdict(x) for x in getattr(more, name)] for name in ("top", "parts", "nearest")}
        return json_answer(Explained.model_validate({"answer": Answer.of(verdict, model.identity), **told}))

    return {"/explain": Route(answer, query=("model",))}
