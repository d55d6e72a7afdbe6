"""What the TensorRT runtime copies in and out, on a CUDA and an engine that ONNX Runtime plays. A real engine needs a
GPU (tests/export/test_to_tensorrt.py runs one where there is one)."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from export.optional_inputs import recalibrated
from export.to_tensorrt import required_inputs
from guard.artefact.files import write_onnx
from guard.artefact.load import load
from guard.detector import Guard
from guard.exported import Engine
from guard.manifest import Manifest
from guard.runtimes.tensorrt_engine import TensorRTEngine
from tests.serving.conftest import colour_graph, colour_manifest

OUTPUTS = ("label", "probabilities", "ood_score", "is_ood")
OK = 0


class Cuda(ModuleType):
    """Device memory is host memory."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self) -> None:
        super().__init__("runtime")
        self.kept: dict[int, Any] = {}

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return OK, 1

    def cudaStreamCreate(self) -> tuple[int, int]:
        return OK, 7

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = ctypes.create_string_buffer(size)
        self.kept[ctypes.addressof(buffer)] = buffer
        return OK, ctypes.addressof(buffer)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        device = target if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert size <= len(self.kept[device]), "the buffer is too small"
        ctypes.memmove(target, source, size)
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (OK,)


class FakeEngine:
    """Runs the graph that was parsed; `deserialize_cuda_engine` gets it in place of an engine."""

    def __init__(self, graph: bytes) -> None:
        self.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.names = [*self.inputs, *OUTPUTS]
        self.num_io_tensors = len(self.names)
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        assert name in self.names
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def execute_async_v3(self, stream: int) -> bool:
        feed = {}
        for name, value in self.inputs.items():
            shape = self.shape if name == "images" else tuple(value.shape)
            kind = np.uint8 if name == "images" else np.float32
            count = int(np.prod(shape)) * np.dtype(kind).itemsize
            feed[name] = np.frombuffer(ctypes.string_at(self.addresses[name], count), kind).reshape(shape)
        for name, output in zip(OUTPUTS, self.session.run(OUTPUTS, feed), strict=True):
            ctypes.memmove(self.addresses[name], output.ctypes.data, output.nbytes)
        return True


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, bindings, trt = ModuleType("cuda"), ModuleType("cuda.bindings"), ModuleType("tensorrt")
    bindings.runtime = Cuda()  # type: ignore[attr-defined]
    trt.__version__ = "10.0.1"  # type: ignore[attr-defined]
    trt.Logger = type("Logger", (), {"ERROR": 2, "__init__": lambda self, level: None})  # type: ignore[attr-defined]
    trt.Runtime = lambda logger: SimpleNamespace(deserialize_cuda_engine=FakeEngine)  # type: ignore[attr-defined]
    names = {"cuda": cuda, "cuda.bindings": bindings, "cuda.bindings.runtime": bindings.runtime, "tensorrt": trt}
    for name, module in names.items():
        monkeypatch.setitem(sys.modules, name, module)


def manifest(*, by_class: bool, max_batch: int = 4) -> Manifest:
    facts = Engine(
        flavour="tensorrt", version="10.0.1", compute_capabilities=("90",), precision="fp32", max_batch=max_batch
    )
    made = colour_manifest().model_copy(update={"engine": facts})
    if not by_class:
        return made
    update = {"class_offsets": (-2.5, 0.0, 1.0), "class_counts": (33,) * 3, "class_intervals": (None,) * 3}
    scaling = {"value": 2.5, "n": 9, "measured_on": "test", "measured_images": 9}
    scaling |= dict.fromkeys(("ece_before", "ece_after", "nll_before", "nll_after"), 0.5)
    text = made.model_copy(update={"calibration": made.calibration.model_copy(update=update)}).model_dump()
    return Manifest.model_validate(text | {"temperature": scaling})


def engine(of: Manifest, graph_of: Manifest) -> Guard:
    return Guard(of, TensorRTEngine(required_inputs(recalibrated(colour_graph(), graph_of)), of))


_COLOURS = np.random.default_rng(0).integers(0, 256, (11, 1, 1, 3)) * np.linspace(0.1, 1, 11).reshape(-1, 1, 1, 1)
IMAGES = np.broadcast_to(_COLOURS.astype(np.uint8), (11, 8, 8, 3))


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize("graph_by_class", [False, True])
def test_an_engine_decides_like_onnx_runtime(by_class: bool, graph_by_class: bool, tmp_path: Path) -> None:
    """Whether the engine has the inputs or not: 11 images in batches of at most 4."""
    m = manifest(by_class=by_class)
    g = engine(m, manifest(by_class=graph_by_class))
    names = {"class_offsets", "inverse_temperature"} if graph_by_class else set()
    assert g.runtime.optional_inputs == names
    write_onnx(tmp_path / "guard.onnx", recalibrated(colour_graph(), m), m)
    expected = load(tmp_path / "guard.onnx", device="cpu").predict_batches([IMAGES])
    found = g.predict_batches([IMAGES])
    for name in ("label", "ood_score", "is_ood", "p_value", "thresholds"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert 0 < expected.is_ood.sum() < 11


def test_inputs_that_are_not_given_have_the_manifests_values() -> None:
    g = engine(manifest(by_class=True), manifest(by_class=True))
    bare, fed = g.runtime.run(IMAGES), g.predict_batches([IMAGES])
    np.testing.assert_array_equal(bare.is_ood, fed.is_ood)
    np.testing.assert_array_equal(bare.probabilities, fed.probabilities)
    other = g.runtime.run(IMAGES, 1e9, inverse_temperature=np.array(0, np.float32))
    assert not other.is_ood.any()
    np.testing.assert_allclose(other.probabilities, 1 / 3, atol=1e-6)
