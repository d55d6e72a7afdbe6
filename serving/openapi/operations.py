"""What each path is for, takes and answers. Methods, parameters and who may ask come from the routes themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ..admin import Reload, Reloaded
from ..open_inference.schemas import (
    InferAnswer,
    InferRequest,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from ..schemas import Answer, BatchAnswer, Explained, card_schema, drift_schema
from ..ui import KINDS, page_files

#: A media type's content: a record, a schema, or None for bytes that the media type alone describes.
Content = type[BaseModel] | Mapping[str, Any] | None

_TEXT = {"type": "string"}
_FILE = {"type": "string", "format": "binary"}
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Operation:
    """One path, whatever the method.

    Attributes:
        summary: what it is for.
        answers: media type -> content of a 200.
        body: media type -> content of a request; empty for none.
        errors: statuses beside those that every path may answer.
        headers: request header -> (description, schema).
        answer_headers: answer header -> description.
        examples: media type -> a request's body.
        body_required: whether there must be a body.
        redirects: answers 307 with a Location, and not 200.
    """

    summary: str
    answers: Mapping[str, Content]
    body: Mapping[str, Content] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    headers: Mapping[str, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    answer_headers: Mapping[str, str] = field(default_factory=dict)
    examples: Mapping[str, Any] = field(default_factory=dict)
    body_required: bool = True
    redirects: bool = False


def _form(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(fields), "required": list(fields)[:1], "additionalProperties": False}


_JSON_LENGTH = "Inference-Header-Content-Length"
_BODY_ERRORS = (408, 413, 415)
_FILES = {"type": "array", "items": _FILE, "minItems": 1}

#: One black pixel.
_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
_ASKED = {"inputs": [{"name": "encoded", "shape": [1], "datatype": "BYTES", "data": [_PNG]}]}
_INFER = Operation(
    "Verdicts by the Open Inference Protocol v2, with its binary tensor data extension",
    {"application/json": InferAnswer, "application/octet-stream": None},
    {"application/json": InferRequest, "application/octet-stream": None},
    (404, *_BODY_ERRORS),
    {_JSON_LENGTH: ("bytes of JSON before the binary data, where there is such", {"type": "integer", "minimum": 0})},
    {_JSON_LENGTH: "bytes of JSON before the binary data, where outputs are binary"},
    {"application/json": _ASKED},
)
_MODEL = Operation("What the model takes and gives", {"application/json": ModelMetadata}, errors=(404,))
_READY = Operation("Whether the model can answer", {"application/json": ModelReady}, errors=(404,))

_ONE_IMAGE: dict[str, Content] = {**dict.fromkeys(_IMAGES), "multipart/form-data": _form({"image": _FILE})}

OPERATIONS: dict[str, Operation] = {
    "/predict": Operation(
        "The verdict on one image: the file as the body, or in the form field `image`",
        {"application/json": Answer},
        _ONE_IMAGE,
        (404, *_BODY_ERRORS),
    ),
    "/explain": Operation(
        "The verdict on one image, and what is behind it",
        {"application/json": Explained},
        _ONE_IMAGE,
        (404, *_BODY_ERRORS),
    ),
    "/drift": Operation(
        "Whether the traffic still looks like the calibration images",
        {"application/json": drift_schema()},
        errors=(404,),
    ),
    "/admin/drift/reset": Operation(
        "Begins the drift test anew",
        {"application/json": drift_schema()},
        errors=(403, 404),
    ),
    "/predict_batch": Operation(
        "The verdicts on several images, in the form fields `images`; one bad image refuses all",
        {"application/json": BatchAnswer},
        {"multipart/form-data": _form({"images": _FILES})},
        (404, *_BODY_ERRORS),
    ),
    "/model": Operation(
        "The manifest, its identity and a histogram of the calibration scores",
        {"application/json": card_schema()},
        errors=(404,),
    ),
    "/metrics": Operation("Prometheus metrics of all workers", {"text/plain": _TEXT}),
    "/ui": Operation("The page for people", {"text/html": _TEXT}),
    "/": Operation("Leads to the page", {}, redirects=True),
    **{f"/ui/{name}": Operation("A file of the page", {KINDS[Path(name).suffix]: _TEXT}) for name in page_files()},
    "/admin/reload": Operation(
        "Serves a new artefact without losing a request; the body may be empty",
        {"application/json": Reloaded},
        {"application/json": Reload},
        (403, 404, *_BODY_ERRORS, 422),
        body_required=False,
    ),
    "/openapi.json": Operation("This document", {"application/json": {"type": "object"}}),
    "/v2": Operation("What the server is", {"application/json": ServerMetadata}),
    "/v2/health/live": Operation("Whether the server runs", {"application/json": ServerLive}),
    "/v2/health/ready": Operation("Whether the server can answer", {"application/json": ServerReady}),
    "/v2/models/{name}": _MODEL,
    "/v2/models/{name}/versions/{version}": _MODEL,
    "/v2/models/{name}/ready": _READY,
    "/v2/models/{name}/versions/{version}/ready": _READY,
    "/v2/models/{name}/infer": _INFER,
    "/v2/models/{name}/versions/{version}/infer": _INFER,
}

#: BentoML's own, which answer before our routes.
HEALTH = {"/livez": "Whether the process runs", "/readyz": "Whether it can answer", "/healthz": "As /livez"}
