"""The document, from the table, the routes and the records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

import guard

from ..routing import Route
from ..schemas import Error
from .operations import HEALTH, OPERATIONS, Content, Operation

_REF = "#/components/schemas/{model}"
_ERRORS = {
    400: "The request is not accepted; the sentence says what is",
    401: "The token is missing or another one",
    403: "Not allowed",
    404: "There is no such model or version",
    405: "The path takes another method",
    408: "The body did not arrive in time",
    413: "Too many bytes, pixels or images",
    415: "The body is compressed",
    422: "What was asked for cannot be done; the sentence says why",
    500: "A defect of the service; its log says more",
    503: "Overloaded; send it again after Retry-After seconds",
}
_ERROR_HEADERS = {401: "WWW-Authenticate", 405: "Allow", 503: "Retry-After"}
_QUERY = {"model": "which of several guards (GUARD_MODELS) answers; default the first"}
_PATH = {"name": "of the model", "version": "the artefact's short hash"}

_STRING = {"type": "string"}


def document(routes: Mapping[str, Route], *, token: bool, models: Mapping[str, str]) -> dict[str, Any]:
    """The service as OpenAPI 3.1.

    Args:
        routes: by path, as `Router` has them; each must be in `OPERATIONS`.
        token: whether the service has a GUARD_TOKEN.
        models: the versions served now, by name.
    """
    schemas = _Schemas(OPERATIONS[path] for path in routes)
    names, versions = ({"type": "string", "enum": list(values)} for values in (models, models.values()))
    known = {"name": names, "model": names, "version": versions}
    paths = {path: _path(path, route, OPERATIONS[path], schemas, token, known) for path, route in routes.items()}
    health = {"200": {"description": "Yes", "content": {"text/plain": {"schema": _STRING}}}}
    health["503"] = {"description": "No", "content": {"text/plain": {"schema": _STRING}}}
    for path, summary in HEALTH.items():
        paths[path] = {"get": {"summary": summary, "operationId": _identity("get", path), "responses": health}}
    components: dict[str, Any] = {"schemas": schemas.definitions}
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    about = "An image classifier that knows what it was not taught. A higher ood_score is more out-of-distribution."
    info = {"title": "ood-guard", "version": guard.__version__, "description": about}
    info["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}  # type: ignore[assignment]
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


class _Schemas:
    """The JSON Schemas of all records, under the names by which the document refers to them."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        modes: dict[tuple[type[BaseModel], JsonSchemaMode], None] = {(Error, "serialization"): None}
        for operation in operations:
            modes |= {(kind, "serialization"): None for kind in operation.answers.values() if isinstance(kind, type)}
            modes |= {(kind, "validation"): None for kind in operation.body.values() if isinstance(kind, type)}
        self._by_record, held = models_json_schema(list(modes), ref_template=_REF)
        self.definitions = held["$defs"]

    def content(self, described: Mapping[str, Content], mode: JsonSchemaMode) -> dict[str, Any]:
        """media type -> its entry."""
        return {media: {} if kind is None else {"schema": self._of(kind, mode)} for media, kind in described.items()}

    def _of(self, kind: type[BaseModel] | Mapping[str, Any], mode: JsonSchemaMode) -> Any:
        return self._by_record[kind, mode] if isinstance(kind, type) else dict(kind)


def _path(
    path: str, route: Route, operation: Operation, schemas: _Schemas, token: bool, known: Mapping[str, Any]
) -> dict[str, Any]:
    described = {}
    for method in (name.lower() for name in route.methods):
        responses = _responses(operation, schemas, method, asks_token=token and not route.open)
        entry: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": _identity(method, path),
            "parameters": _parameters(path, route, operation, known),
            "responses": responses,
        }
        if operation.body:
            content = schemas.content(operation.body, "validation")
            for media, value in operation.examples.items():
                content[media] = {**content[media], "example": value}
            entry["requestBody"] = {"required": operation.body_required, "content": content}
        if token and not route.open:
            entry["security"] = [{"token": []}]
        described[method] = entry
    return described


def _parameters(path: str, route: Route, operation: Operation, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    def parameter(where: str, name: str, description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
        required = where == "path"
        return {"in": where, "name": name, "description": description, "required": required, "schema": dict(schema)}

    found = [parameter("path", name, _PATH[name], known[name]) for name in re.findall(r"\{(\w+)\}", path)]
    found += [parameter("query", name, _QUERY[name], known.get(name, _STRING)) for name in route.query]
    found += [parameter("header", name, *said) for name, said in operation.headers.items()]
    found.append(parameter("header", "X-Request-Id", "comes back and is in the log; made where missing", _STRING))
    return found


def _responses(operation: Operation, schemas: _Schemas, method: str, *, asks_token: bool) -> dict[str, Any]:
    headers = {"X-Request-Id": {"description": "of this request", "schema": _STRING}}
    own = {name: {"description": said, "schema": _STRING} for name, said in operation.answer_headers.items()}
    if operation.redirects:
        location = {"Location": {"description": "the page", "required": True, "schema": _STRING}}
        responses: dict[str, Any] = {"307": {"description": "Elsewhere", "headers": {**headers, **location}}}
    else:
        responses = {"200": {"description": "The answer", "headers": {**headers, **own}}}
        if method != "head":
            responses["200"]["content"] = schemas.content(operation.answers, "serialization")
    statuses = {400, 500, 503, *operation.errors} | ({401} if asks_token else set())
    for status in sorted(statuses):
        entry: dict[str, Any] = {"description": _ERRORS[status], "headers": dict(headers)}
        if (name := _ERROR_HEADERS.get(status)) is not None:
            entry["headers"][name] = {"required": True, "schema": _STRING}
        if method != "head":
            entry["content"] = schemas.content({"application/json": Error}, "serialization")
        responses[str(status)] = entry
    return responses


def _identity(method: str, path: str) -> str:
    return "_".join([method, *re.findall(r"\w+", path)])
