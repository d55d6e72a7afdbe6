"""Renaming and pruning reach into the bodies of control-flow nodes."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from guard.graph.onnx_nodes import all_nodes, foreign_operators, prune, rename, unused_name, value_names


def body(operator: str, domain: str = "") -> GraphProto:
    """A branch that reads `scale` and `x` from the graph around it."""
    out = helper.make_tensor_value_info(f"out_{operator}", TensorProto.FLOAT, ["n"])
    node = helper.make_node(operator, ["x", "scale"], [f"out_{operator}"], domain=domain)
    return helper.make_graph([node], operator, [], [out])


def choosing(other: str = "Add", domain: str = "") -> GraphProto:
    """y = x * scale where x sums to more than 0, else x + scale; `dead` and `unread` feed nothing."""
    nodes: list[NodeProto] = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("Exp", ["x"], ["dead"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=body("Mul"), else_branch=body(other, domain)),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    constants = {"scale": 3.0, "zero": 0.0, "unread": 1.0}
    initializers = [numpy_helper.from_array(np.array(v, np.float32), k) for k, v in constants.items()]
    return helper.make_graph(nodes, "choosing", values[:1], values[1:], initializers)


def answer(graph: GraphProto, x: np.ndarray) -> np.ndarray:
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("x", [np.array([1, 2], np.float32), np.array([-1, -2], np.float32)])
def test_a_renamed_and_pruned_graph_answers_alike(x: np.ndarray) -> None:
    graph = choosing()
    expected = 3 * x if x.sum() > 0 else x + 3
    rename(graph, {name: f"net/{name}" for name in value_names(graph)})
    prune(graph)
    assert {name for name in value_names(graph) if not name.startswith("net/")} == set()
    assert value_names(graph).isdisjoint({"net/dead", "net/unread"})
    assert [i.name for i in graph.initializer] == ["net/scale", "net/zero"]
    np.testing.assert_array_equal(answer(graph, x), expected)


def test_names_inside_branches_are_taken() -> None:
    assert unused_name(choosing(), "out_Add") == "out_Add_"
    assert unused_name(choosing(), "free") == "free"


def test_foreign_operators_inside_branches_are_found() -> None:
    assert foreign_operators(choosing()) == []
    assert foreign_operators(choosing("FusedThing", "com.vendor")) == ["com.vendor.FusedThing"]
    assert [node.op_type for node in all_nodes(choosing())] == ["ReduceSum", "Greater", "Exp", "If", "Add", "Mul"]
