"""Default values are written into a graph without the onnx package; the package checks what came out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from guard.artefact.onnx_defaults import graph_inputs, set_defaults
from guard.errors import ArtefactDamagedError


def _graph() -> bytes:
    """y = x + a + b, with defaults for a () and b (300,); c is a constant and no input."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "a"], ["xa"]),
            helper.make_node("Add", ["xa", "b"], ["y"]),
            helper.make_node("Neg", ["c"], ["z"]),
        ],
        "sums",
        [value("x", TensorProto.FLOAT, ["n", 300]), value("a", TensorProto.FLOAT, []), value("b", 1, [300])],
        [value("y", TensorProto.FLOAT, ["n", 300]), value("z", TensorProto.FLOAT, [])],
        [
            numpy_helper.from_array(np.float32(1.5), "a"),
            numpy_helper.from_array(np.arange(300, dtype=np.float32), "b"),
            numpy_helper.from_array(np.float32(3), "c"),
            helper.make_tensor("plain", TensorProto.FLOAT, [], [1.0]),  # its value is not in raw_data
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def values(graph: bytes) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(graph).graph.initializer}


def test_only_what_is_named_changes() -> None:
    graph = _graph()
    offsets = np.random.default_rng(0).normal(size=300).astype(np.float32)
    made = set_defaults(graph, {"a": np.array(-2.25, np.float32), "b": offsets})
    onnx.checker.check_model(onnx.load_from_string(made))
    before, after = values(graph), values(made)
    assert after["a"] == np.float32(-2.25)
    np.testing.assert_array_equal(after["b"], offsets)
    assert (after["c"], after["plain"]) == (before["c"], before["plain"])
    assert set_defaults(made, {"a": before["a"], "b": before["b"]}) == graph
    assert set_defaults(graph, {}) == graph


def test_inputs_are_listed_with_and_without_a_default() -> None:
    assert graph_inputs(_graph()) == {"x", "a", "b"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"a": np.zeros(2, np.float32)}, "input 'a' has a default of 4 bytes, not 8"),
        ({"d": np.float32(0)}, "no default for its input 'd'"),
        ({"x": np.float32(0)}, "no default for its input 'x'"),
        ({"plain": np.float32(0)}, "input 'plain' has a default of 0 bytes, not 4"),
    ],
)
def test_what_is_not_there_or_has_another_size_is_refused(given: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(ArtefactDamagedError, match=sentence):
        set_defaults(_graph(), given)


def test_a_graph_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ArtefactDamagedError, match="cannot be read"):
        graph_inputs(_graph()[:-7])
