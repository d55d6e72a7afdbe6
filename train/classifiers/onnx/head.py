"""Find the last linear layer of a classifier's graph, by walking back from its output.

    features (N, D) -> [Dropout] -> Gemm | MatMul + Add | MatMul -> [Reshape ...] -> logits (N, C) -> [Softmax]
    map (N, D, h, w) -> 1x1 Conv -> [GlobalAveragePool, Flatten ...] -> logits (N, C) -> [Softmax]

A 1x1 convolution and the average over a map commute, so the features of the second form are the averaged map. What is
found is a proposal: whoever uses the weights compares W h + b with the logits on images first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from guard.graph.onnx_nodes import ancestors, producers, reads

from .read import runner

_SAME = (
    "Identity",
    "Dropout",
    "Cast",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "QuantizeLinear",
    "DequantizeLinear",
)  # operators that leave (N, C) what it is, up to rounding
_POOLING = ("GlobalAveragePool", "ReduceMean", "AveragePool")
_LAST = ("Softmax", "LogSoftmax", "Sigmoid")


class LinearLayer(NamedTuple):
    """The name of what the layer reads, (N, D) or (N, D, h, w); weight float64 (C, D), bias (C,)."""

    features: str
    weight: np.ndarray
    bias: np.ndarray


def without_softmax(model: ModelProto, output: str) -> tuple[str, str]:
    """(the value before the final softmax, the type of that softmax); (output, "") where it has none.

    A Sigmoid at the end is named too: it makes no classifier that a guard can have, which is for the caller to say.
    """
    made_by = producers(model.graph)
    name = output
    while (node := made_by.get(name)) is not None:
        if node.op_type in _LAST:
            return node.input[0], node.op_type
        if node.op_type not in _SAME:
            break
        name = node.input[0]
    return output, ""


def find_linear_layer(model: ModelProto, logits: str) -> LinearLayer | None:
    """The last linear layer on the way to `logits`, or None where something else comes first."""
    node = _behind(model, logits, _SAME + _POOLING)
    if node is None or node.op_type != "Add":
        return _linear(model, node)
    for value, other in (node.input, reversed(node.input)):
        bias = constant(model, other)
        layer = _linear(model, _behind(model, value, _SAME)) if bias is not None else None
        if bias is not None and layer is not None and bias.size in (1, len(layer.bias)):
            return layer._replace(bias=layer.bias + bias.reshape(-1))
    return None


def both_classes(layer: LinearLayer) -> LinearLayer:
    """The layer of the two logits that `guard.graph.answers` makes of one; others as they are."""
    if len(layer.weight) != 1:
        return layer
    return layer._replace(
        weight=np.concatenate([-layer.weight, layer.weight]) / 2, bias=np.concatenate([-layer.bias, layer.bias]) / 2
    )


def _behind(model: ModelProto, name: str, skipped: tuple[str, ...]) -> NodeProto | None:
    """The node that made `name`, looking through operators of the types `skipped`."""
    made_by = producers(model.graph)
    node = made_by.get(name)
    while node is not None and node.op_type in skipped:
        node = made_by.get(node.input[0])
    return node


def _linear(model: ModelProto, node: NodeProto | None) -> LinearLayer | None:
    """A Gemm, MatMul or 1x1 Conv with constant weights as a `LinearLayer`; None for everything else."""
    if node is None or node.op_type not in ("Gemm", "MatMul", "Conv"):
        return None
    weight = constant(model, node.input[1])
    bias = constant(model, node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if weight is None or bias is None:
        return None
    options = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if weight.shape[2:] != (1, 1) or options.get("group", 1) != 1 or any(options.get("pads", ())):
            return None
        if any(stride != 1 for stride in options.get("strides", ())):
            return None
        weight = weight[:, :, 0, 0]
    elif weight.ndim != 2 or options.get("transA", 0):
        return None
    elif not options.get("transB", 0):
        weight = weight.T
    weight, bias = options.get("alpha", 1.0) * weight, options.get("beta", 1.0) * bias.reshape(-1)
    if len(bias) not in (1, len(weight)):
        return None
    return LinearLayer(node.input[0], weight, np.broadcast_to(bias, len(weight)))


def constant(model: ModelProto, name: str) -> np.ndarray | None:
    """The value of `name` in float64 where it does not depend on the images, however it is computed; else None."""
    graph = model.graph
    for initializer in graph.initializer:
        if initializer.name == name:
            return numpy_helper.to_array(initializer).astype(np.float64)
    nodes = ancestors(graph, {name})
    needed = set().union(*(reads(node) for node in nodes))
    if not nodes or needed & {value.name for value in graph.input}:
        return None
    alone = helper.make_model(
        helper.make_graph(
            nodes, "constant", [], [helper.make_empty_tensor_value_info(name)],
            initializer=[i for i in graph.initializer if i.name in needed],
        ),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )  # fmt: skip
    return np.asarray(runner(alone)({})[name]).astype(np.float64)
