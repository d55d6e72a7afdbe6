"""Records and refusals as HTTP responses."""

from __future__ import annotations

from starlette.responses import Response

from .errors import Refusal
from .schemas import Error, Schema


def json_answer(answer: Schema, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The record as JSON. pydantic writes numbers that are not finite as null; json.dumps would write NaN, which is not
    JSON."""
    return Response(answer.model_dump_json(), status, headers, media_type="application/json")


def error_answer(refusal: Refusal) -> Response:
    """{"error": the sentence}, with the refusal's status and headers."""
    return json_answer(Error(error=refusal.sentence), refusal.status, refusal.headers)
