"""Fold the pixel normalisation into the first convolution of an exported graph.

    images -> Cast -> Transpose -> Mul s -> Add t -> Conv W, b          as torch writes it
    images -> Cast -> Sub m -> Transpose -> Conv W s, b                 m = -t / s = 255 mean, once per column (W, C)

The scale moves into the weights, W (s x + t) = (W s) (x - m). The mean may not follow it into the bias where the
convolution pads: its zeros stand for mean pixels, so borders would differ. Where it does not pad (the patch embedding
of a vision transformer) the mean goes too, b + sum W t, and nothing is left between Transpose and Conv. ONNX Runtime
moves the subtraction before the transposition in any case, and there a mean of three numbers is slow: 5 % of a small
network's time in int8. With the mean written out for a whole row of pixels it is not.

Everything is computed in float64 and rounded once; the scores of the folded graph stay within float32 rounding
of torch's, which `guard.export` measures on every file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper


class _Chain(NamedTuple):
    """The nodes between the pixels and the first convolution; scale, shift and weight in float64."""

    transpose: NodeProto
    mul: NodeProto
    add: NodeProto
    conv: NodeProto
    scale: np.ndarray
    shift: np.ndarray
    weight: np.ndarray


def fold_normalisation(model: ModelProto) -> bool:
    """Rewrite `model` in place; False, and nothing changed, where the pixels do not run straight into a convolution."""
    graph = model.graph
    chain = _find(graph)
    if chain is None:
        return False
    transpose, mul, add, conv, scale, shift, weight = chain
    pixels = transpose.output[0]
    conv.input[1] = _constant(graph, "first_conv.weight", weight * scale)
    if _pads(conv):
        mean = _constant(graph, "pixel_mean", np.tile((-shift / scale).reshape(1, -1), (_columns(graph), 1)))
        centre = helper.make_node("Sub", [transpose.input[0], mean], [add.output[0]], name="node_centre")
        graph.node.insert(list(graph.node).index(transpose), centre)
        transpose.input[0] = add.output[0]
        conv.input[0] = pixels
    else:
        bias = _initializer(graph, conv.input[2]) if len(conv.input) > 2 else None
        moved = (weight * shift).sum((1, 2, 3)) + (0 if bias is None else bias)
        name = _constant(graph, "first_conv.bias", moved)
        conv.input[:] = [pixels, conv.input[1], name]
    graph.node.remove(mul)
    graph.node.remove(add)
    _drop_unused(graph)
    return True


def _find(graph: GraphProto) -> _Chain | None:
    """The one chain images -> Cast -> Transpose -> Mul -> Add -> Conv in which every step feeds only the next."""
    cast = [node for node in graph.node if node.op_type == "Cast" and node.input[0] == "images"]
    chain = cast if len(cast) == 1 else []
    for wanted in ("Transpose", "Mul", "Add", "Conv"):
        readers = [node for node in graph.node if chain and chain[-1].output[0] in node.input]
        if len(readers) != 1 or readers[0].op_type != wanted:
            return None
        chain.append(readers[0])
    _, transpose, mul, add, conv = chain
    scale, shift = (
        _initializer(graph, next(name for name in node.input if name != before.output[0]))
        for node, before in ((mul, transpose), (add, mul))
    )
    weight = _initializer(graph, conv.input[1])
    if scale is None or shift is None or weight is None or conv.input[0] != add.output[0]:
        return None
    if not any(a.name == "perm" and list(a.ints) == [0, 3, 1, 2] for a in transpose.attribute):
        return None
    if not scale.shape == shift.shape == (1, weight.shape[1], 1, 1):  # a grouped convolution has fewer weight channels
        return None
    return _Chain(transpose, mul, add, conv, scale, shift, weight)


def _columns(graph: GraphProto) -> int:
    """The width of the images (N, H, W, C), 1 where it is not fixed."""
    (images,) = (value for value in graph.input if value.name == "images")
    return max(1, int(images.type.tensor_type.shape.dim[2].dim_value))


def _pads(conv: NodeProto) -> bool:
    """Whether the convolution puts zeros around its input."""
    attributes = {a.name: a for a in conv.attribute}
    automatic = attributes["auto_pad"].s if "auto_pad" in attributes else b"NOTSET"
    return automatic not in (b"NOTSET", b"VALID") or ("pads" in attributes and any(attributes["pads"].ints))


def _initializer(graph: GraphProto, name: str) -> np.ndarray | None:
    """The constant of that name in float64, or None where it is computed or an input."""
    for initializer in graph.initializer:
        if initializer.name == name:
            return numpy_helper.to_array(initializer).astype(np.float64)
    return None


def _constant(graph: GraphProto, name: str, value: np.ndarray) -> str:
    """Add a float32 initializer under a name nothing has yet; returns the name."""
    taken = {i.name for i in graph.initializer} | {output for node in graph.node for output in node.output}
    while name in taken:
        name += "_"
    graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    return name


def _drop_unused(graph: GraphProto) -> None:
    """Initializers that no node reads any more (an input's default stays)."""
    used = {name for node in graph.node for name in node.input} | {i.name for i in graph.input}
    for index in reversed(range(len(graph.initializer))):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]
