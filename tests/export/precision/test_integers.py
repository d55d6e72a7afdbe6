"""int8: the numbers that the slow formula gives, in the form that each target takes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from export.precision.integers import Quantiser
from guard.runtimes.onnx_session import OnnxSession
from tests.export.precision.test_floats import images, run, small_graph
from tests.random_guards import EVERY, exported
from tests.references.quantised import activations_in_8_bits, convolution, rounded_weights


def constants(graph: bytes) -> dict[str, np.ndarray]:
    return {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(graph).graph.initializer}


def test_one_convolution_is_the_slow_formula() -> None:
    """Weights and activations rounded apart, their product, and the result rounded again."""
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 3, 3, 3), torch.zeros(5)
    graph = small_graph(weight, bias)
    given = np.random.default_rng(1).integers(0, 256, (16, 6, 6, 3), dtype=np.uint8)
    x = given.transpose(0, 3, 1, 2).astype(np.float32) / 255
    exact = convolution(x, weight.numpy())
    x8 = activations_in_8_bits(x, float(x.min()), float(x.max()))
    positive = np.maximum(convolution(x8, rounded_weights(weight.numpy(), 64)), 0)
    expected = activations_in_8_bits(positive, 0.0, float(np.maximum(exact, 0).max())).mean((2, 3))
    (logits,) = run(Quantiser(graph, [given], "cpu").quantised(), given, "logits")
    np.testing.assert_allclose(
        logits, expected, atol=2e-3
    )  # a product on the edge between two levels may go either way
    assert np.abs(logits - np.maximum(exact, 0).mean((2, 3))).max() > 1e-3


@pytest.mark.parametrize("score", ["energy", "energy_logistic", "gram", "multilayer_mahalanobis", "vim"])
def test_two_products_fit_into_16_bits(score: str) -> None:
    """Else processors without VNNI, which add pairs of them so, decide otherwise than those with it."""
    model = onnx.load_from_string(Quantiser(exported(score, "linear")[1], [images(32)], "cpu").quantised())
    of_int8 = [numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8]
    weights = [values.astype(int) for values in of_int8 if values.ndim > 1]
    assert len(weights) == 10
    assert max(2 * 255 * np.abs(values).max() for values in weights) < 2**15
    assert max(np.abs(values).max() for values in weights) == 64


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize(
    ("score", "head"),
    [(s, h) for s, h in EVERY if s in ("energy", "gram", "knn", "multilayer_mahalanobis", "rotation")],
)
def test_every_convolution_and_no_score_is_quantised(score: str, head: str, target: str) -> None:
    graph = exported(score, head)[1]
    quantiser = Quantiser(graph, [images(32)], target)
    model = onnx.load_from_string(quantiser.quantised())
    onnx.checker.check_model(model)
    made = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        sources = [made[name].op_type if name in made else "" for name in node.input]
        if node.op_type == "Conv":
            assert sources[0] == "DequantizeLinear"
            assert sources[1] == "DequantizeLinear"
        elif node.op_type in ("MatMul", "Gemm"):
            assert "DequantizeLinear" not in sources[1:]
    zero_points = [node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    values = constants(model.SerializeToString())
    kind = np.int8 if target == "tensorrt" else np.uint8
    of_activations = [values[name] for name in zero_points if values[name].ndim == 0 or values[name].size == 1]
    assert of_activations
    assert {value.dtype.type for value in of_activations} == {kind}
    if target == "tensorrt":
        assert all((value == 0).all() for value in of_activations)


def test_a_layer_that_is_kept_stays_in_float32() -> None:
    graph = exported("energy", "linear")[1]
    quantiser = Quantiser(graph, [images(32)], "cpu")
    kept = quantiser.layers[3:5]
    model = onnx.load_from_string(quantiser.quantised(kept))
    made = {output: node for node in model.graph.node for output in node.output}
    of_float = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] not in made:
            of_float.append(node.output[0])
    assert [name.removesuffix("_QuantizeLinear_Input") for name in of_float] == list(kept)
    values = constants(model.SerializeToString())
    weights = [node.input[1] for node in model.graph.node if node.op_type == "Conv" and node.input[1] in values]
    assert {values[name].dtype for name in weights} == {np.dtype(np.float32)}


def test_all_layers_kept_is_the_float32_graph() -> None:
    graph = exported("energy", "linear")[1]
    quantiser = Quantiser(graph, [images(32)], "cpu")
    same = OnnxSession(quantiser.quantised(quantiser.layers), device="cpu").run(images())
    exact = OnnxSession(graph, device="cpu").run(images())
    np.testing.assert_allclose(same.ood_score, exact.ood_score, rtol=1e-5, atol=1e-5)


def test_a_quarter_of_the_bytes() -> None:
    graph = exported("energy", "linear")[1]
    assert len(Quantiser(graph, [images(32)], "cpu").quantised()) < 0.4 * len(graph)


def test_logging_stays_as_it_is() -> None:
    """In a process of its own: the quantiser sets up logging where there are no handlers, and pytest has some."""
    code = """
import logging, numpy as np
from export.precision.integers import Quantiser
from tests.random_guards import exported
Quantiser(exported("energy", "linear")[1], [np.zeros((4, 16, 16, 3), np.uint8)], "cpu").quantised()
assert logging.root.handlers == [], logging.root.handlers
assert logging.root.manager.disable == 0
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_thresholds_stay_inputs() -> None:
    graph = exported("energy", "linear")[1]
    quantised = onnx.load_from_string(Quantiser(graph, [images(32)], "cpu").quantised()).graph
    assert "threshold" in {i.name for i in quantised.input}
    (default,) = [i for i in quantised.initializer if i.name == "threshold"]
    assert default.data_type == TensorProto.FLOAT
