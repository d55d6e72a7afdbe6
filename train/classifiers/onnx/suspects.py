"""Nodes that are random at inference, or compute over the whole batch: what makes an image's answer unsteady."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from guard.errors import ModelError
from guard.graph.onnx_nodes import all_nodes

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_OVER_AXES = ("Softmax", "LogSoftmax", "ReduceMean", "ReduceMax", "ReduceSum", "LpNormalization")


def check_nodes(model: ModelProto) -> None:
    """Refuse a graph by its nodes alone: one that is random, or quantised dynamically.

    Raises:
        ModelError: naming the node.
    """
    for node in all_nodes(model.graph):
        if _is_random(model.graph, node):
            raise ModelError(
                f"{_named(node)} is random at inference, so the same image gets another answer each time; export the "
                "model in eval mode (training=TrainingMode.EVAL)"
            )
        if node.op_type == "DynamicQuantizeLinear":
            raise ModelError(
                f"it is quantised dynamically ({_named(node)}): the int8 scale is that of the whole batch, so an "
                "image's answer depends on its neighbours; give the float file, or one with static quantisation (QDQ)"
            )
        if _is_training_norm(node):
            raise ModelError(
                f"{_named(node)} is in training mode and uses the mean and variance of the batch, so an image's answer "
                "depends on its neighbours; export the model in eval mode"
            )


def suspects(graph: bytes) -> str:
    """Nodes of a serialised graph that read over the batch, in words; "" where none is known to."""
    model = onnx.load_from_string(graph)
    found = [_named(node) for node in all_nodes(model.graph) if _reads_the_batch(model, node)]
    return ", ".join(found[:3])


def _is_random(graph: GraphProto, node: NodeProto) -> bool:
    if node.op_type in _RANDOM:
        return True
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = _value(graph, node.input[2])
    ratio = _value(graph, node.input[1]) if node.input[1] else np.array(0.5)
    return (training is None or bool(training.any())) and (ratio is None or bool((ratio != 0).any()))


def _is_training_norm(node: NodeProto) -> bool:
    return node.op_type == "BatchNormalization" and any(a.name == "training_mode" and a.i for a in node.attribute)


def _reads_the_batch(model: ModelProto, node: NodeProto) -> bool:
    if node.op_type not in _OVER_AXES:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axes = attributes.get("axes", attributes.get("axis"))
    if axes is None and len(node.input) > 1:
        axes = _value(model.graph, node.input[1])
    if axes is None:
        return False
    return 0 in np.atleast_1d(axes)


def _value(graph: GraphProto, name: str) -> np.ndarray | None:
    """A constant's value; None where it is computed."""
    for initializer in graph.initializer:
        if initializer.name == name:
            return numpy_helper.to_array(initializer)
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output:
            for a in node.attribute:
                if a.name == "value":
                    return numpy_helper.to_array(a.t)
    return None


def _named(node: NodeProto) -> str:
    name = node.name or (node.output[0] if node.output else "")
    return f"{node.op_type} {name[:60]!r}"
