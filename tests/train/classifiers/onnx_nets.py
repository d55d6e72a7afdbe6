"""Small ONNX classifiers written node by node, and what they compute, written in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

CHANNELS, WIDTH, CLASSES, SIDE = 3, 12, 4, 16
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

_random = np.random.default_rng(5)
KERNEL = _random.standard_normal((WIDTH, CHANNELS, 3, 3)).astype(np.float32) * 0.5
WEIGHT = _random.standard_normal((CLASSES, WIDTH)).astype(np.float32)
BIAS = _random.standard_normal(CLASSES).astype(np.float32)


class Plain(torch.nn.Module):
    """The network of every file here: convolution, ReLU, average, linear."""

    def __init__(self, weight: np.ndarray = WEIGHT) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.from_numpy(KERNEL))
        self.last = torch.nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            self.last.weight.copy_(torch.from_numpy(weight))
            self.last.bias.copy_(torch.from_numpy(BIAS))

    def features(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, stride=2).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


class File(NamedTuple):
    """How a file differs: the nodes around the network, its constants, its input and its opset."""

    head: list[NodeProto]
    constants: dict[str, np.ndarray]
    front: tuple[NodeProto, ...] = ()
    shape: tuple[int | str, ...] = ("n", CHANNELS, SIDE, SIDE)
    element: int = TensorProto.FLOAT
    opset: int = 17
    body: Callable[[], list[NodeProto]] | None = None
    outputs: tuple[str, ...] = ("logits",)
    trailing: tuple[int, ...] = ()  # of the logits' shape


def pooled() -> list[NodeProto]:
    """x -> flat (N, WIDTH)."""
    return [
        node("Conv", "x kernel", "conv", strides=[2, 2]),
        node("Relu", "conv", "map"),
        node("GlobalAveragePool", "map", "pool"),
        node("Flatten", "pool", "flat"),
    ]


GEMM = [node("Gemm", "flat weight bias", "logits", transB=1)]
WB = {"weight": WEIGHT, "bias": BIAS}
HALF = np.float16
LAST4 = [node("Conv", "map weight4 bias", "scores")]  # a 1x1 convolution over the map, as in SqueezeNet
CONV = {"weight4": WEIGHT[:, :, None, None], "bias": BIAS}
SCALE = np.array(1 / 64, np.float32)
WEIGHT8 = np.round(WEIGHT / SCALE).clip(-128, 127).astype(np.int8)

FILES: dict[str, File] = {
    "gemm": File(GEMM, WB),
    "gemm alpha beta": File(
        [node("Gemm", "flat weight bias", "logits", alpha=0.5, beta=2.0)], {"weight": 2 * WEIGHT.T, "bias": BIAS / 2}
    ),
    "matmul add": File(
        [node("MatMul", "flat weight", "m"), node("Add", "bias m", "logits")], {**WB, "weight": WEIGHT.T}
    ),
    "computed weight": File(
        [node("Transpose", "weight", "t"), node("Identity", "t", "i"), node("MatMul", "flat i", "m"),
         node("Add", "m bias", "logits")], WB,
    ),
    "quantised weight": File(
        [node("DequantizeLinear", "weight8 scale", "d"), node("Gemm", "flat d bias", "logits", transB=1)],
        {"weight8": WEIGHT8, "scale": SCALE, "bias": BIAS},
    ),
    "softmax": File([node("Gemm", "flat weight bias", "z", transB=1), node("Softmax", "z", "p")], WB, outputs=("p",)),
    "log softmax": File(
        [node("Gemm", "flat weight bias", "z", transB=1), node("LogSoftmax", "z", "s"), node("Identity", "s", "p")], WB,
        outputs=("p",),
    ),
    "softmax by hand": File(
        [node("Gemm", "flat weight bias", "z", transB=1), node("ReduceMax", "z", "m", axes=[1]),
         node("Sub", "z m", "c"), node("Exp", "c", "e"), node("ReduceSum", "e axis", "s"), node("Div", "e s", "p")],
        {**WB, "axis": np.array([1])}, outputs=("p",),
    ),
    "log softmax by hand": File(
        [node("Gemm", "flat weight bias", "z", transB=1), node("ReduceLogSumExp", "z", "s", axes=[1]),
         node("Sub", "z s", "p")], WB, outputs=("p",),
    ),
    "dropout reshape": File(
        [node("Dropout", "flat", "d"), node("Gemm", "d weight bias", "z", transB=1),
         node("Reshape", "z any4", "logits")],
        {**WB, "any4": np.array([-1, 4])},
    ),
    "conv head on map": File(
        [*LAST4, node("GlobalAveragePool", "scores", "p"), node("Flatten", "p", "logits")], CONV,
        body=lambda: pooled()[:2],
    ),
    "conv head on vector": File(
        [node("Conv", "pool weight4 bias", "scores"), node("Softmax", "scores", "p", axis=1)], CONV,
        body=lambda: pooled()[:3], outputs=("p",), trailing=(1, 1),
    ),
    "channels last": File(
        GEMM, WB, (node("Transpose", "images", "x", perm=[0, 3, 1, 2]),), ("n", SIDE, SIDE, CHANNELS),
    ),
    "fixed batch": File(
        [node("Gemm", "f weight bias", "logits", transB=1)], {**WB, "one": np.array([1, WIDTH])},
        shape=(1, CHANNELS, SIDE, SIDE), body=lambda: [*pooled()[:3], node("Reshape", "pool one", "f", allowzero=1)],
    ),
    "open size": File(GEMM, WB, shape=("n", CHANNELS, "h", "w")),
    "opset 11": File(GEMM, WB, opset=11),
    "opset 20": File(GEMM, WB, opset=20),
    "opset 22": File(GEMM, WB, opset=22),
    "half": File(
        [node("Gemm", "flat weight bias", "logits", transB=1)],
        {"weight": WEIGHT.astype(HALF), "bias": BIAS.astype(HALF)}, element=TensorProto.FLOAT16,
    ),
    "label too": File(
        [*GEMM, node("Softmax", "logits", "p"), node("ArgMax", "logits", "label", axis=1, keepdims=0),
         node("Identity", "flat", "embedding")], WB, outputs=("label", "p", "embedding", "logits"),
    ),
}  # fmt: skip

_NORMALISE = (node("Sub", "f mean255", "centred"), node("Div", "centred std255", "x"))
_PIXELS = {
    "mean255": 255 * np.array(MEAN, np.float32).reshape(1, 3, 1, 1),
    "std255": 255 * np.array(STD, np.float32).reshape(1, 3, 1, 1),
}
FILES["uint8 channels last"] = File(
    GEMM, {**WB, **_PIXELS},
    (node("Transpose", "images", "t", perm=[0, 3, 1, 2]), node("Cast", "t", "f", to=TensorProto.FLOAT), *_NORMALISE),
    ("n", SIDE, SIDE, CHANNELS), TensorProto.UINT8,
)  # fmt: skip
FILES["uint8 channels first"] = File(
    GEMM, {**WB, **_PIXELS}, (node("Cast", "images", "f", to=TensorProto.FLOAT), *_NORMALISE), element=TensorProto.UINT8
)


def build(file: File) -> ModelProto:
    """The ONNX model of a `File`."""
    body = (file.body or pooled)()
    name = "images" if file.front else "x"
    kernel = KERNEL.astype(HALF) if file.element == TensorProto.FLOAT16 else KERNEL
    kinds = {"label": (TensorProto.INT64, ["n"]), "embedding": (TensorProto.FLOAT, ["n", WIDTH])}
    element = TensorProto.FLOAT if file.element == TensorProto.UINT8 else file.element
    logits = (element, [file.shape[0], CLASSES, *file.trailing])
    graph = helper.make_graph(
        [*file.front, *body, *file.head],
        "net",
        [helper.make_tensor_value_info(name, file.element, file.shape)],
        [helper.make_tensor_value_info(o, *kinds.get(o, logits)) for o in file.outputs],
        [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in {"kernel": kernel, **file.constants}.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", file.opset)], ir_version=8)
