"""Tensors on the wire: a datatype by name, JSON lists checked value by value, and little-endian binary data."""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np

from ..errors import Refusal

#: The datatypes that our inputs and outputs have, as numpy stores them on the wire; BYTES has a format of its own.
DTYPES = {"BOOL": "?", "UINT8": "u1", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}
_PYTHON: dict[str, set[type]] = {"UINT8": {int}, "FP32": {int, float}, "BYTES": {str}}


def from_binary(data: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> np.ndarray | list[bytes]:
    """A tensor of binary data, row major; BYTES as a list, whose elements each follow their length (uint32).

    Raises:
        Refusal: 400, the data is not as long as shape and datatype say.
    """
    if datatype == "BYTES":
        return _bytes_elements(data, math.prod(shape), name)
    dtype = np.dtype(DTYPES[datatype])
    wanted = math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        raise Refusal(
            400,
            f"input {name!r}: {datatype} of shape {list(shape)} is {wanted} bytes, binary_data_size says {len(data)}",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def _bytes_elements(data: memoryview, count: int, name: str) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at + 4 <= len(data) and len(found) < count:
        (length,) = struct.unpack_from("<I", data, at)
        found.append(bytes(data[at + 4 : at + 4 + length]))
        at += 4 + length
    if at != len(data) or len(found) != count:
        raise Refusal(
            400, f"input {name!r}: the binary data does not hold {count} elements, each after its length in 4 bytes"
        )
    return found


def from_json(data: list[Any], datatype: str, shape: tuple[int, ...], name: str) -> np.ndarray | list[str]:
    """A tensor of JSON values, nested as its shape or flat; BYTES as a list of strings.

    Raises:
        Refusal: 400, other values, a ragged list, or not as many as the shape says.
    """
    flat, nesting = _flat(data, name)
    if nesting not in (shape, (math.prod(shape),)):
        raise Refusal(400, f"input {name!r}: the data is {_lists(nesting)}, its shape says {list(shape)}")
    if strange := set(map(type, flat)) - _PYTHON[datatype]:
        kind = {int: "integer", float: "number", str: "string", bool: "boolean", dict: "object"}
        found = kind.get(next(iter(strange)), "null")
        raise Refusal(400, f"input {name!r}: {datatype} data must not hold a {found}")
    if datatype == "BYTES":
        return flat
    if datatype == "UINT8" and flat and not 0 <= min(flat) <= max(flat) <= 255:
        raise Refusal(400, f"input {name!r}: UINT8 data must lie in 0 .. 255, got {min(flat)} .. {max(flat)}")
    try:
        return np.array(flat, DTYPES[datatype]).reshape(shape)
    except OverflowError:  # an integer beyond every float
        raise Refusal(400, f"input {name!r}: a value is too large for {datatype}") from None


def _flat(data: list[Any], name: str) -> tuple[list[Any], tuple[int, ...]]:
    """All values in order, and the lengths of the lists at each depth."""
    nesting = [len(data)]
    while data and list in (kinds := set(map(type, data))):
        lengths = set(map(len, data)) if kinds == {list} else set()
        if len(lengths) != 1:
            raise Refusal(400, f"input {name!r}: the lists of its data differ in length or depth")
        nesting.append(lengths.pop())
        data = list(itertools.chain.from_iterable(data))
    return data, tuple(nesting)


def _lists(nesting: tuple[int, ...]) -> str:
    return f"{nesting[0]} values" if len(nesting) == 1 else f"nested as {list(nesting)}"


def to_binary(array: np.ndarray, datatype: str) -> bytes:
    """Row major, little-endian."""
    return np.ascontiguousarray(array, DTYPES[datatype]).tobytes()


def to_json(array: np.ndarray) -> list[Any]:
    """All values in order; a number that is not finite (an uncalibrated p-value) is null, for JSON has none."""
    values = array.reshape(-1).tolist()
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else None for value in values]
    return values
