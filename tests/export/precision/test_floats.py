"""float16 and bfloat16 inside the body, float32 outside, and the arithmetic that the types say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from scipy.stats import spearmanr

from export.precision.body import body
from export.precision.floats import in_half, rounded
from guard.runtimes.onnx_session import OnnxSession
from guard.runtimes.openvino_model import OpenVINOModel
from tests.random_guards import EVERY, exported

SOME = [(s, h) for s, h in EVERY if h != "cosine" or s == "energy"]
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def images(count: int = 64) -> np.ndarray:
    found = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    found[: count // 4] //= 16
    return found


def types(graph: bytes) -> dict[str, int]:
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    every = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    return {value.name: value.type.tensor_type.elem_type for value in every}


@pytest.mark.parametrize(
    ("score", "head", "precision"),
    [(s, h, "fp16") for s, h in SOME] + [("energy", "linear", "bf16"), ("gram", "linear", "bf16")],
)
def test_the_body_is_of_that_type_and_nothing_else(score: str, head: str, precision: str) -> None:
    graph = exported(score, head)[1]
    found = body(onnx.load_from_string(graph))
    inferred = types(in_half(graph, precision))
    for name in found.nodes:
        assert inferred[f"{name}.{precision}"] == KINDS[precision]
    others = {name for name, kind in inferred.items() if kind == KINDS[precision]}
    inside = {f"{name}.{precision}" for name in found.nodes}
    (entry,) = others - inside  # the normalised pixels, cast
    assert entry.endswith(f".{precision}")
    for name in ("probabilities", "ood_score", "threshold"):
        assert inferred[name] == TensorProto.FLOAT


@pytest.mark.parametrize(("score", "head"), SOME)
def test_float16_decides_nearly_alike(score: str, head: str) -> None:
    graph = exported(score, head)[1]
    exact, half = OnnxSession(graph, device="cpu").run(images()), OnnxSession(in_half(graph, "fp16")).run(images())
    assert (exact.label == half.label).mean() > 0.95
    np.testing.assert_allclose(half.probabilities, exact.probabilities, atol=5e-3)
    same = exact.label == half.label  # elsewhere a score may jump
    assert spearmanr(half.ood_score[same], exact.ood_score[same]).statistic > 0.98
    assert (half.ood_score != exact.ood_score).any()


def test_rounding_is_what_bfloat16_does() -> None:
    """Against torch: a convolution of rounded numbers, its result rounded."""
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 3, 3, 3), torch.randn(5)
    graph = small_graph(weight, bias)
    given = np.random.default_rng(1).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)
    x = torch.tensor(given).permute(0, 3, 1, 2).float() / 255
    x = x.to(torch.bfloat16).float()
    map_ = torch.nn.functional.conv2d(x, weight.bfloat16().float(), bias.bfloat16().float())
    expected = map_.bfloat16().float().relu().mean((2, 3))
    (logits,) = run(rounded(graph, "bf16"), given, "logits")
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-5, atol=1e-5)
    (exact,) = run(graph, given, "logits")
    assert np.abs(logits - exact).max() > 1e-4


def test_openvino_computes_it_as_it_is_rounded() -> None:
    graph = exported("energy", "linear")[1]
    ours, theirs = OnnxSession(rounded(graph, "bf16"), device="cpu"), OpenVINOModel(in_half(graph, "bf16"), threads=1)
    a, b, exact = ours.run(images()), theirs.run(images()), OnnxSession(graph, device="cpu").run(images())
    assert (a.label == b.label).mean() > 0.95
    assert np.abs(a.ood_score - b.ood_score).max() < 0.1
    assert np.abs(a.ood_score - exact.ood_score).max() > 1e-4


def test_half_the_bytes() -> None:
    graph = exported("energy", "linear")[1]
    assert len(in_half(graph, "fp16")) < 0.55 * len(graph)
    assert len(in_half(graph, "bf16")) < 0.55 * len(graph)


def run(graph: bytes, given: np.ndarray, *names: str) -> list[np.ndarray]:
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return list(session.run(list(names), {"images": given}))


def small_graph(weight: torch.Tensor, bias: torch.Tensor) -> bytes:
    """uint8 pixels / 255 -> one convolution, ReLU and mean."""
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "full"], ["x"]),
        helper.make_node("Conv", ["x", "weight", "bias"], ["map"]),
        helper.make_node("Relu", ["map"], ["positive"]),
        helper.make_node("ReduceMean", ["positive", "axes"], ["logits"], keepdims=0),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=-1, keepdims=0),
    ]
    constants = [
        numpy_helper.from_array(np.array(255, np.float32), "full"),
        numpy_helper.from_array(weight.numpy(), "weight"),
        numpy_helper.from_array(bias.numpy(), "bias"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    side = 6
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", side, side, 3])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(bias)]),
        ],
        constants,
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    )


def with_a_branch(within: bool) -> bytes:
    """Convolution c -> If, whose branches read c from outside -> (y + c) -> energy; or y alone."""
    node, value, kept = onnx.helper.make_node, onnx.helper.make_tensor_value_info, onnx.numpy_helper.from_array
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "g": rng.normal(size=(4, 5)).astype(np.float32),
        "yes": np.array(True),
        "two": np.float32(2),
        "axis": np.int64([1]),
        "threshold": np.float32(0),
    }
    of_branch = [value("t", TensorProto.FLOAT, ["N", 4, 6, 6]), value("e", TensorProto.FLOAT, ["N", 4, 6, 6])]
    then = onnx.helper.make_graph([node("Mul", ["c", "two"], ["t"])], "then", [], of_branch[:1])
    other = onnx.helper.make_graph([node("Neg", ["c"], ["e"])], "other", [], of_branch[1:])
    nodes = [
        node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        node("Transpose", ["x"], ["maps"], perm=[0, 3, 1, 2]),
        node("Conv", ["maps", "w"], ["c"]),
        node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
        node("Add", ["y", "c" if within else "y"], ["z"]),
        node("GlobalAveragePool", ["z"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "g"], ["logits"]),
        node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
        node("Softmax", ["logits"], ["probabilities"]),
        node("ReduceMax", ["logits", "axis"], ["ood_score"], keepdims=0),
        node("Greater", ["ood_score", "threshold"], ["is_ood"]),
    ]
    outputs = [("label", TensorProto.INT64), ("ood_score", TensorProto.FLOAT), ("is_ood", TensorProto.BOOL)]
    graph = onnx.helper.make_graph(
        nodes,
        "guard",
        [value("images", TensorProto.UINT8, ["N", 8, 8, 3])],
        [value("probabilities", TensorProto.FLOAT, ["N", 5]), *(value(name, kind, ["N"]) for name, kind in outputs)],
        [kept(array, name) for name, array in constants.items()],
    )
    return bytes(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
        ).SerializeToString()
    )


@pytest.mark.parametrize("within", [True, False])
def test_what_a_branch_reads_from_outside_is_there_in_float32(within: bool) -> None:
    graph = with_a_branch(within)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    exact = OnnxSession(graph, device="cpu").run(pixels).ood_score
    for lowered in (in_half(graph, "fp16"), rounded(graph, "fp16"), rounded(graph, "bf16")):
        np.testing.assert_allclose(OnnxSession(lowered, device="cpu").run(pixels).ood_score, exact, rtol=0.02)
