"""Read and set the default values of an ONNX graph's optional inputs, without the onnx package.

An initializer with an input's name is that input's default (ONNX IR >= 4). A new value has the old one's size, so it is
written over its bytes: an exported guard is calibrated anew on a machine that has ONNX Runtime and nothing else.

    ModelProto { 7: GraphProto { 5: TensorProto { 8: name, 9: raw data, little-endian }, 11: ValueInfo { 1: name } } }
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..errors import ArtefactDamagedError
from .files import protobuf_fields

_GRAPH, _INITIALIZER, _INPUT, _INPUT_NAME, _NAME, _RAW_DATA = 7, 5, 11, 1, 8, 9


def graph_inputs(graph: bytes) -> frozenset[str]:
    """Names of all inputs, also those that have a default."""
    names = []
    for start, end in _messages(graph, _INPUT):
        names += [graph[a:b].decode() for field, a, b in _parts(graph, start, end) if field == _INPUT_NAME]
    return frozenset(names)


def set_defaults(graph: bytes, values: Mapping[str, np.ndarray]) -> bytes:
    """`graph` with other defaults.

    Args:
        graph: a serialised ModelProto.
        values: input name -> float32 array of the shape that its default has.

    Raises:
        ArtefactDamagedError: there is no such default, or it has another size.
    """
    changed, missing = bytearray(graph), dict(values)
    for start, end in _messages(graph, _INITIALIZER):
        parts = {field: (a, b) for field, a, b in _parts(graph, start, end) if field in (_NAME, _RAW_DATA)}
        name = graph[slice(*parts.get(_NAME, (0, 0)))].decode()
        if name not in missing:
            continue
        raw = np.asarray(missing.pop(name), dtype="<f4").tobytes()
        a, b = parts.get(_RAW_DATA, (0, 0))
        if b - a != len(raw):
            raise ArtefactDamagedError(f"the graph's input {name!r} has a default of {b - a} bytes, not {len(raw)}")
        changed[a:b] = raw
    if missing:
        raise ArtefactDamagedError(f"the graph has no default for its input {min(missing)!r}")
    return bytes(changed)


def _messages(graph: bytes, wanted: int) -> Iterator[tuple[int, int]]:
    """Where the graph's sub-messages with this field number lie."""
    for field, start, end in _parts(graph, 0, len(graph)):
        if field == _GRAPH:
            yield from ((a, b) for inner, a, b in _parts(graph, start, end) if inner == wanted)


def _parts(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field, value start, value end) in `data[start:end]`, as positions in `data`."""
    try:
        for field, _, _, value, stop in protobuf_fields(memoryview(data)[start:end]):
            yield field, start + value, start + stop
    except (IndexError, ValueError):
        raise ArtefactDamagedError("the graph cannot be read; export the guard again") from None
