"""The body is the network on maps and tokens: every convolution, and nothing of features, logits and score."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.precision.body import KEPT, body
from guard.errors import ExportError
from tests.random_guards import EVERY, exported

SOME = [(s, h) for s, h in EVERY if h != "cosine" or s == "energy"]


@pytest.mark.parametrize(("score", "head"), SOME)
def test_it_holds_the_network_and_no_vector(score: str, head: str) -> None:
    model = onnx.load_from_string(exported(score, head)[1])
    found = body(model)
    by_output = {node.output[0]: node for node in model.graph.node}
    convolutions = {name for name, node in by_output.items() if node.op_type == "Conv"}
    assert set(found.weighted) == convolutions
    assert len(convolutions) == 10  # of wrn10_2
    assert all(found.ranks[name] >= 3 for name in found.nodes)
    assert not KEPT & {by_output[name].op_type for name in found.nodes}
    read = {name for node in model.graph.node if not found.has(node) for name in node.input}
    out = [name for name in found.nodes if name in read]
    assert out  # something leaves the body
    if score not in ("gram", "multilayer_mahalanobis", "rotation"):  # these read maps
        assert len(out) == 1


def test_a_network_of_vectors_alone_is_refused() -> None:
    weight = numpy_helper.from_array(np.ones((3, 12), np.float32), "w")
    shape = numpy_helper.from_array(np.array([-1, 12], np.int64), "shape")
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], transB=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=-1, keepdims=0),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 2, 2, 3])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])
    graph = helper.make_graph(nodes, "g", [images], [label], [weight, shape])
    with pytest.raises(ExportError, match="no convolutions or matrix products on maps or tokens"):
        body(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


def test_a_graph_of_another_maker_is_refused() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["label"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"])],
    )
    with pytest.raises(ExportError, match="label must come from ArgMax"):
        body(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
