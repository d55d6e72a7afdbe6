"""The protocol's JSON objects, as records; `request` checks what they cannot say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from ..schemas import Schema

Parameters = dict[str, StrictBool | StrictInt | StrictFloat | StrictStr]
Dimension = Annotated[StrictInt, Field(ge=0, le=2**63 - 1)]
InputName = Literal["images", "encoded", "threshold"]
OutputName = Literal["label", "probabilities", "ood_score", "is_ood", "p_value"]


class InferInput(Schema):
    """One input tensor.

    Attributes:
        name: "images" (UINT8 [n, H, W, C], the size the graph takes), or "encoded" (BYTES [n], image files; base64 in
            JSON); beside one of them "threshold" (FP32 [1]).
        shape, datatype: of the tensor.
        parameters: binary_data_size: bytes of this tensor after the JSON; then there is no `data`.
        data: its values, nested as the shape or flat.
    """

    name: InputName
    shape: Annotated[tuple[Dimension, ...], Field(min_length=1, max_length=4)]
    datatype: Literal["UINT8", "BYTES", "FP32"]
    parameters: Parameters = {}
    data: list[Any] | None = None


class InferOutput(Schema):
    """One output that is asked for.

    Attributes:
        name: of the output.
        parameters: binary_data: whether it comes after the JSON.
    """

    name: OutputName
    parameters: Parameters = {}


class InferRequest(Schema):
    """POST /v2/models/{name}/infer.

    Attributes:
        id: comes back in the answer.
        parameters: binary_data_output: whether all outputs come after the JSON, where they do not say so themselves.
        inputs: "images" or "encoded", and perhaps "threshold".
        outputs: those to answer with, in this order; default all.
    """

    id: Annotated[StrictStr, Field(max_length=1000)] | None = None
    parameters: Parameters = {}
    inputs: Annotated[tuple[InferInput, ...], Field(min_length=1, max_length=2)]
    outputs: Annotated[tuple[InferOutput, ...], Field(min_length=1, max_length=5)] | None = None


class OutputTensor(Schema):
    """One output tensor; `data` row major, or `parameters.binary_data_size` bytes of it after the JSON."""

    name: OutputName
    datatype: Literal["INT64", "FP32", "BOOL", "FP64"]
    shape: tuple[int, ...]
    parameters: dict[str, int] | None = None
    data: list[int] | list[float | None] | list[bool] | None = None


class InferAnswer(Schema):
    """The answer to an `InferRequest`."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: tuple[OutputTensor, ...]


class ServerMetadata(Schema):
    """GET /v2."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(Schema):
    """A tensor that a model takes or gives; -1 is any length."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(Schema):
    """GET /v2/models/{name}: every input there is, of which a request has "images" or "encoded"."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class ModelReady(Schema):
    """GET /v2/models/{name}/ready."""

    name: str
    ready: bool


class ServerLive(Schema):
    """GET /v2/health/live."""

    live: bool


class ServerReady(Schema):
    """GET /v2/health/ready."""

    ready: bool
