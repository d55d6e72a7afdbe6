"""The body of an inference request: JSON, and perhaps binary data behind it -> what is to be scored and answered.

Nothing is made before it is counted: the shape is checked against the limits first, then the data against the shape.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from guard.manifest import Manifest

from ..errors import Refusal
from . import metadata
from .schemas import InferInput, InferOutput, InferRequest, Parameters, TensorMetadata
from .tensors import from_binary, from_json

#: Parameters of Triton's extensions that would change the answer; what a client asks for so is refused, not ignored.
_NOT_OFFERED = ("shared_memory_region", "classification", "sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True, slots=True)
class Wanted:
    """One output to answer with."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """A request that can be answered.

    Attributes:
        id: to be sent back, or None.
        images: n of them: encoded files, or uint8 (H, W, C) as the graph takes them.
        threshold: in place of the guard's own, or None.
        outputs: to answer with, in order.
    """

    id: str | None
    images: list[bytes] | list[np.ndarray]
    threshold: float | None
    outputs: tuple[Wanted, ...]


def parse(body: bytes, json_length: str | None, manifest: Manifest, *, most_images: int, most_json: int) -> Inference:
    """Read a body.

    Args:
        json_length: the header Inference-Header-Content-Length: bytes of JSON before binary data; None for no such.
        most_images: in one request.
        most_json: bytes of JSON.

    Raises:
        Refusal: 400 anything the protocol or the guard does not accept; 413 too much of it.
    """
    text, binary = _divided(body, json_length)
    if len(text) > most_json:
        raise Refusal(
            413,
            f"the JSON has {len(text)} bytes, at most {most_json} are accepted; send tensors as binary data "
            "(GUARD_MAX_JSON_BYTES sets this)",
        )
    asked = _validated(text)
    declared = metadata.inputs(manifest)
    tensors: dict[str, Any] = {}
    at = 0
    for tensor in asked.inputs:
        if tensor.name in tensors:
            raise Refusal(400, f"input {tensor.name!r} is given twice")
        shape = _shape(tensor, declared[tensor.name], most_images)
        size = _binary_size(tensor, json_length is not None, len(binary) - at)
        if size is None:
            tensors[tensor.name] = from_json(tensor.data or [], tensor.datatype, shape, tensor.name)
        else:
            tensors[tensor.name] = from_binary(binary[at : at + size], tensor.datatype, shape, tensor.name)
            at += size
    if at != len(binary):
        raise Refusal(400, f"{len(binary) - at} bytes follow the JSON that no input's binary_data_size speaks of")
    return Inference(asked.id, _images(tensors), _threshold(tensors), _outputs(asked))


def _divided(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    if json_length is None:
        return body, memoryview(b"")
    digits = json_length.lstrip("0") or "0"  # Python reads no more than 4,300 of them
    known = json_length.isascii() and json_length.isdecimal() and len(digits) < 19
    if not known or int(digits) > len(body):
        raise Refusal(
            400,
            f"Inference-Header-Content-Length must be the length of the JSON, 0 .. {len(body)} here, "
            f"got {json_length[:40]!r}",
        )
    end = int(digits)
    return body[:end], memoryview(body)[end:]


def _validated(text: bytes) -> InferRequest:
    try:
        asked = InferRequest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise Refusal(400, f"not an inference request: {where and where + ': '}{first['msg'][:300]}") from None
    _check_parameters(asked.parameters, "the request")
    parts: tuple[InferInput | InferOutput, ...] = (*asked.inputs, *(asked.outputs or ()))
    for part in parts:
        _check_parameters(part.parameters, repr(part.name))
    return asked


def _check_parameters(parameters: Parameters, where: str) -> None:
    if refused := [name for name in _NOT_OFFERED if name in parameters]:
        raise Refusal(400, f"the parameter {refused[0]!r} of {where} is not offered here; leave it out")
    for name in ("binary_data", "binary_data_output"):
        if not isinstance(parameters.get(name, False), bool):
            raise Refusal(400, f"the parameter {name!r} of {where} must be true or false, got {parameters[name]!r:.40}")


def _shape(tensor: InferInput, declared: TensorMetadata, most_images: int) -> tuple[int, ...]:
    said, shape = declared.shape, tensor.shape
    fits = len(said) == len(shape) and all(a in (-1, b) for a, b in zip(said, shape, strict=True))
    if tensor.datatype != declared.datatype or not fits:
        raise Refusal(
            400,
            f"input {tensor.name!r} must be {declared.datatype} of shape {list(said)}, -1 being any length, got "
            f"{tensor.datatype} of shape {list(shape)}; files of any size go into 'encoded'",
        )
    if tensor.name != "threshold":
        if shape[0] == 0:
            raise Refusal(400, f"input {tensor.name!r} has no images; send at least one")
        if shape[0] > most_images:
            raise Refusal(413, f"more than {most_images} images in one request; send fewer")
    return shape


def _binary_size(tensor: InferInput, has_header: bool, left: int) -> int | None:
    """Bytes of this input in the binary data; None where it is JSON."""
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise Refusal(400, f"input {tensor.name!r} has neither data nor the parameter binary_data_size")
        return None
    if tensor.data is not None:
        raise Refusal(400, f"input {tensor.name!r} has both data and the parameter binary_data_size; give one")
    if not has_header:
        raise Refusal(400, "binary data needs the header Inference-Header-Content-Length: the length of the JSON")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
        raise Refusal(400, f"input {tensor.name!r}: binary_data_size must be 0 .. {left} here, got {size!r:.40}")
    return size


def _images(tensors: dict[str, Any]) -> list[bytes] | list[np.ndarray]:
    if ("images" in tensors) == ("encoded" in tensors):
        raise Refusal(400, "give one of the inputs 'images' (pixels) and 'encoded' (image files)")
    if "images" in tensors:
        return list(tensors["images"])
    try:
        return [
            one if isinstance(one, bytes) else base64.b64decode(one.encode(), validate=True)
            for one in tensors["encoded"]
        ]
    except (binascii.Error, ValueError):  # ValueError: a surrogate
        raise Refusal(400, "input 'encoded': strings in JSON must be base64 of the image files") from None


def _threshold(tensors: dict[str, Any]) -> float | None:
    if "threshold" not in tensors:
        return None
    value = float(tensors["threshold"][0])
    if math.isnan(value):
        raise Refusal(400, "input 'threshold' must be a number, got NaN")
    return value


def _outputs(asked: InferRequest) -> tuple[Wanted, ...]:
    binary = bool(asked.parameters.get("binary_data_output", False))
    every = metadata.OUTPUTS
    chosen = asked.outputs or tuple(InferOutput(name=name) for name in every)
    names = [output.name for output in chosen]
    if twice := [name for name in names if names.count(name) > 1]:
        raise Refusal(400, f"output {twice[0]!r} is asked for twice")
    return tuple(Wanted(one.name, bool(one.parameters.get("binary_data", binary))) for one in chosen)
