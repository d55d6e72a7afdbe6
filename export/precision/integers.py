"""The body of a guard's graph in int8: ONNX Runtime's static quantiser, as QuantizeLinear and DequantizeLinear nodes.

    x ~ scale (q - zero_point), q in 8 bits     scale and zero point of activations: their smallest and largest value on
                                                calibration images; of weights: symmetric, per output channel

Two targets. "cpu": activations u8, weights s8, what ONNX Runtime's kernels for VNNI take; biases are int32. Weights
have 7 of the 8 bits: x86 processors without VNNI add two products in 16 bits, where 2 x 255 x 127 does not fit and
2 x 255 x 64 does. With all 8 bits they decide otherwise than processors with VNNI. "tensorrt": both s8 and symmetric,
biases in float32, and the weights' own pair of nodes, which is what TensorRT fuses.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from .body import body

TARGETS = ("cpu", "tensorrt")
#: Between quantised layers of maps, in 8 bits where the target computes so; on tokens they stay in float32.
BETWEEN = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "MaxPool", "Relu")


class Quantiser:
    """Makes int8 graphs of one float32 graph.

    Args:
        graph: a serialised guard graph in float32.
        batches: uint8 images (n, H, W, channels) by which the ranges of activations are chosen.
        target: one of `TARGETS`.
    """

    def __init__(self, graph: bytes, batches: Sequence[np.ndarray], target: str) -> None:
        self._model = _named(onnx.load_from_string(graph))
        self._batches = batches
        self._target = target
        self.body = body(self._model)
        self._kinds = self._kinds_of(self._chosen(list(self.body.weighted)))
        self._kept = TemporaryDirectory(prefix="ranges-")  # ranges are the same whichever layers are quantised

    def quantised(self, kept: Collection[str] = ()) -> bytes:
        """The serialised graph, with the layers `kept` (of `layers`) in float32."""
        return self._written(self._chosen([one for one in self.body.weighted if one not in set(kept)]))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers with weights, in the graph's order."""
        return self.body.weighted

    def _chosen(self, weighted: list[str]) -> list[str]:
        """Names of the nodes to quantise: these layers, and what lies between maps where a quantised layer is near."""
        near = set[str]()
        for node in self._model.graph.node:
            if node.output[0] in weighted:
                near.update([node.input[0], node.output[0]])
        chosen = []
        for node in self._model.graph.node:
            between = self.body.has(node) and node.op_type in BETWEEN and self.body.ranks[node.output[0]] == 4
            if node.output[0] in weighted or (between and near.intersection([*node.input, node.output[0]])):
                chosen.append(node.name)
        return chosen

    def _kinds_of(self, names: list[str]) -> list[str]:
        wanted = set(names)
        return sorted({node.op_type for node in self._model.graph.node if node.name in wanted})

    def _written(self, names: list[str]) -> bytes:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        if not names:  # which the quantiser would take for all of them
            return bytes(self._model.SerializeToString())
        tensorrt = self._target == "tensorrt"
        has_cache = "calibration_cache_path" in inspect.signature(quantize_static).parameters  # ONNX Runtime 1.32
        cache = {"calibration_cache_path": Path(self._kept.name) / "ranges.json"} if has_cache else {}
        with TemporaryDirectory() as folder, _quiet():
            source, target = Path(folder) / "guard.onnx", Path(folder) / "int8.onnx"
            onnx.save(self._model, source)
            quantize_static(
                source,
                target,
                _Reader(self._batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=not tensorrt,
                activation_type=QuantType.QInt8 if tensorrt else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=names,
                op_types_to_quantize=self._kinds,
                extra_options={
                    "ActivationSymmetric": tensorrt,
                    "WeightSymmetric": True,
                    "QuantizeBias": not tensorrt,
                    "AddQDQPairToWeight": tensorrt,
                    "CalibTensorRangeSymmetric": tensorrt,
                },
                **cache,
            )
            return _tidied(onnx.load(target), self._model)


class _Reader:
    """What the quantiser asks for calibration images."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._batches: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": np.ascontiguousarray(batch)}


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node with a name of its own: the quantiser chooses by names."""
    taken = set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"node_{index}_{node.output[0]}"
        taken.add(node.name)
    return model


def _tidied(model: onnx.ModelProto, source: onnx.ModelProto) -> bytes:
    """Without what the quantiser leaves behind: shapes, its own name."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises preprocessing that changes nothing here, and its sessions warn of optional inputs."""
    import onnxruntime as ort

    before, held = logging.root.manager.disable, logging.NullHandler()
    logging.disable(logging.WARNING)
    logging.root.addHandler(held)  # else its first message would set up logging for the whole process
    ort.set_default_logger_severity(3)
    try:
        yield
    finally:
        ort.set_default_logger_severity(2)
        logging.root.removeHandler(held)
        logging.disable(before)
