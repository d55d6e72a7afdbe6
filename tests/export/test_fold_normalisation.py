"""The normalisation folded into the first convolution: same numbers, fewer nodes, other graphs left alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional as F

from export.fold_normalisation import fold_normalisation

SCALE, SHIFT = np.float32([0.016, 0.02, 0.018]), np.float32([-2.0, -1.9, -1.7])
SIDE, OUT = 9, 6


def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def graph(
    *, tail: list[onnx.NodeProto] | None = None, scale_shape: tuple[int, ...] = (1, 3, 1, 1), **conv
) -> onnx.ModelProto:
    """images -> Cast -> Transpose -> Mul -> Add -> Conv (or `tail`), as torch exports it."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(OUT, 3 // conv.get("group", 1), 3, 3)).astype(np.float32)
    bias = conv.pop("bias", True)
    nodes = [
        helper.make_node("Cast", ["images"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["cast"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["nchw", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["normal"]),
        helper.make_node("Conv", ["normal", "weight", *(["bias"] if bias else [])], ["out"], **conv),
        *(tail or []),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", SIDE, SIDE, 3])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", OUT, None, None])
    initializers = [
        constant("scale", SCALE.reshape(scale_shape)),
        constant("shift", SHIFT.reshape(scale_shape)),
        constant("weight", weight),
        *([constant("bias", random.normal(size=OUT).astype(np.float32))] if bias else []),
    ]
    made = helper.make_graph(nodes, "g", [images], [output], initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


def run(model: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pixels()})[0]


def by_torch(model: onnx.ModelProto, stride: int, padding: int) -> np.ndarray:
    """The unfolded computation in float64."""
    held = {i.name: torch.from_numpy(numpy_helper.to_array(i).astype(np.float64)) for i in model.graph.initializer}
    x = torch.from_numpy(pixels()).double().permute(0, 3, 1, 2) * held["scale"] + held["shift"]
    return F.conv2d(x, held["weight"], held.get("bias"), stride, padding).numpy()


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_padding_convolution_keeps_one_subtraction(bias: bool, stride: int) -> None:
    model = graph(pads=[1, 1, 1, 1], strides=[stride, stride], bias=bias)
    expected = by_torch(model, stride, 1)
    assert fold_normalisation(model)
    assert operators(model) == ["Cast", "Sub", "Transpose", "Conv"]
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-5)  # the border too


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_padding_takes_the_mean_too(bias: bool) -> None:
    model = graph(strides=[3, 3], bias=bias)
    expected = by_torch(model, 3, 0)
    assert fold_normalisation(model)
    assert operators(model) == ["Cast", "Transpose", "Conv"]
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-5)


def test_padding_that_the_runtime_chooses_counts_as_padding() -> None:
    model = graph(auto_pad="SAME_UPPER")
    expected = by_torch(model, 1, 1)
    assert fold_normalisation(model)
    assert "Sub" in operators(model)
    np.testing.assert_allclose(run(model), expected, rtol=1e-5, atol=1e-5)


def test_what_is_no_longer_read_is_dropped() -> None:
    model = graph(pads=[1, 1, 1, 1])
    fold_normalisation(model)
    assert {i.name for i in model.graph.initializer} == {"first_conv.weight", "pixel_mean", "bias"}


@pytest.mark.parametrize(
    "model",
    [
        graph(tail=[helper.make_node("Relu", ["normal"], ["reader"])]),
        graph(tail=[helper.make_node("Relu", ["nchw"], ["reader"])]),
        graph(scale_shape=(3, 1, 1)),
        graph(group=3, bias=False),
    ],
    ids=["normalised pixels read twice", "pixels read twice", "another shape", "grouped"],
)
def test_other_graphs_are_left_alone(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    assert not fold_normalisation(model)
    assert model.SerializeToString() == before


def test_a_weight_that_two_convolutions_share_keeps_its_values() -> None:
    second = helper.make_node("Conv", ["first3", "weight"], ["again"], pads=[1, 1, 1, 1])
    first = helper.make_node("Slice", ["out", "zero", "three", "one"], ["first3"])
    model = graph(tail=[first, second], pads=[1, 1, 1, 1])
    model.graph.initializer.extend(
        constant(name, np.int64([value])) for name, value in (("zero", 0), ("three", 3), ("one", 1))
    )
    weight = next(numpy_helper.to_array(i).copy() for i in model.graph.initializer if i.name == "weight")
    assert fold_normalisation(model)
    kept = next(numpy_helper.to_array(i) for i in model.graph.initializer if i.name == "weight")
    np.testing.assert_array_equal(kept, weight)
    assert model.graph.node[-1].input[1] == "weight"
