"""POST /admin/reload: serve a new artefact without losing a request. Orders need a token."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from guard.errors import ConfigError, GuardError
from guard.paths import expanded

from .answers import json_answer
from .errors import Refusal
from .reload import source_of, stage
from .routing import Route, Routes
from .schemas import Schema
from .token import Token
from .worker import Worker

_MOST_BYTES = 65536
_WAIT_S = 20.0  # for the other workers


class Reload(Schema):
    """The body, which may be empty.

    Attributes:
        model: its name; default the first.
        path: the new artefact on the service's machine; default the path it was loaded from, read again.
    """

    model: str | None = None
    path: Path | None = None


class Reloaded(Schema):
    """The answer.

    Attributes:
        model, identity, before: name, and ``name@short-hash`` of what is served now and was before.
        workers: processes of this service; `reloaded` of them serve the new artefact by now.
        errors: why others do not.
    """

    model: str
    identity: str
    before: str
    workers: int
    reloaded: int
    errors: tuple[str, ...] = ()


def routes(worker: Worker) -> Routes:
    """/admin/reload; 422 where the new artefact cannot be served, and the old one stays."""
    secret = worker.settings.token
    token = Token(secret.get_secret_value() if secret else None)

    async def reload(request: Request) -> Response:
        token.demand(request.headers)
        async with worker.body(request, _MOST_BYTES, "which is enough for this") as body:
            asked = _parsed(body)
        before = worker.models.get(asked.model)
        request.state.time.reschedule(None)  # a large guard takes its while, and the answer says what came of it
        try:
            source = _source(asked) or source_of(worker.control, worker.settings, before.name)
            # not ended where the client leaves: a swap must not be half done
            generation = await asyncio.shield(
                asyncio.to_thread(stage, worker.control, worker.settings, before.name, source, before.guard)
            )
        except GuardError as error:
            raise Refusal(422, f"{before.identity} stays: {error}") from None
        reports = await worker.control.reached(generation.generation, _WAIT_S)
        errors = tuple(error for _, error in reports.values() if error)
        return json_answer(
            Reloaded(
                model=before.name,
                identity=generation.models[before.name].identity,
                before=before.identity,
                workers=len(reports),
                reloaded=sum(got >= generation.generation and not error for got, error in reports.values()),
                errors=errors,
            )
        )

    return {"/admin/reload": Route(reload)}


def _source(asked: Reload) -> Path | None:
    """Raises: ConfigError: a path that means something else in the service than where it was written."""
    if asked.path is None:
        return None
    path = expanded(asked.path)
    if not path.is_absolute():
        raise ConfigError(f"path {str(path)!r} is relative, to a folder that nobody sees here; give it from / on")
    return path


def _parsed(body: bytes) -> Reload:
    if not body.strip():
        return Reload()
    try:
        return Reload.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise Refusal(
            400,
            f'{where[:60]}: {first["msg"]}; send {{"model": "name", "path": "new.onnx"}}, both optional, or nothing',
        ) from None
