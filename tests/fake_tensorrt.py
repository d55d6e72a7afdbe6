"""A CUDA whose memory is the host's, and a TensorRT whose engines are ONNX files that ONNX Runtime runs.

A fake engine is bound to version and GPU as a real one is: b"ENGINE version gpu|" and the graph that was parsed.
"""

from __future__ import annotations

import ctypes
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

OK = 0
GPU = "NVIDIA Fake 9000"


class Cuda(ModuleType):
    """cuda.bindings.runtime. Copies are checked: one side is device memory, the other pinned, neither too small."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)

    def __init__(self, gpu: str = GPU, count: int = 1) -> None:
        super().__init__("runtime")
        self.gpu, self.count = gpu, count
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.copied: list[tuple[str, int]] = []
        self.streams = 0

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return OK, self.count

    def cudaGetDevice(self) -> tuple[int, int]:
        return OK, 0

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return OK, SimpleNamespace(name=self.gpu.encode(), major=9, minor=0)

    def cudaStreamCreate(self) -> tuple[int, int]:
        self.streams += 1
        return OK, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.streams -= 1
        return (OK,)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        return OK, self._taken(self.device, size)

    def cudaMallocHost(self, size: int) -> tuple[int, int]:
        return OK, self._taken(self.pinned, size)

    @staticmethod
    def _taken(memory: dict[int, Any], size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.device[address]
        return (OK,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.pinned[address]
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        to_device = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        on_device, on_host = (target, source) if to_device else (source, target)
        assert stream == 7
        assert size <= len(self.device[on_device]), "the device buffer is too small"
        assert size <= len(self.pinned[on_host]), "the host's memory is not pinned, or too small"
        ctypes.memmove(target, source, size)
        self.copied.append(("in" if to_device else "out", size))
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        return (OK,)


class FakeEngine:
    """Runs the graph that was parsed."""

    def __init__(self, graph: bytes) -> None:
        self.session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.addresses: dict[str, int] = {}
        self.batches: list[int] = []

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_execution_context(self, config: Any = None) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> None:
        assert name in self.names
        self.addresses[name] = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def execute_async_v3(self, stream: int) -> bool:
        if not set(self.names) <= set(self.addresses):
            return False
        feed = {}
        for name, value in self.inputs.items():
            shape = self.shape if name == "images" else tuple(value.shape)
            kind = np.uint8 if name == "images" else np.float32
            count = int(np.prod(shape)) * np.dtype(kind).itemsize
            feed[name] = np.frombuffer(ctypes.string_at(self.addresses[name], count), kind).reshape(shape)
        self.batches.append(self.shape[0])
        for name, output in zip(self.outputs, self.session.run(self.outputs, feed), strict=True):
            ctypes.memmove(self.addresses[name], output.ctypes.data, output.nbytes)
        return True


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content


class Config:
    """A builder's configuration; `made` are all of them."""

    made: list[Config] = []

    def __init__(self, gpu: str) -> None:
        self.gpu, self.cleared, self.profiles, self.cache = gpu, [], [], None
        Config.made.append(self)

    def clear_flag(self, flag: Any) -> None:
        self.cleared.append(flag)

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        return None if content.startswith(b"garbage") else TimingCache(content)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache
        return not cache.content or cache.content.startswith(self.gpu.encode())

    def get_timing_cache(self) -> TimingCache:
        assert self.cache is not None
        return TimingCache(self.cache.content or self.gpu.encode())


class Profile:
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        assert name == "images"
        self.shapes = shapes


def tensorrt(version: str, cuda: Cuda, *, typed_by_flag: bool = True, tf32: bool = True) -> ModuleType:
    """The module, as TensorRT 10 has it; `typed_by_flag` False as 11, where every network is strongly typed."""
    trt = ModuleType("tensorrt")
    own: Any = trt
    own.__version__ = version
    own.networks = []

    def head() -> bytes:
        return f"ENGINE {version} {cuda.gpu}|".encode()

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

        def __init__(self) -> None:
            pass

    class Logger(ILogger):
        ERROR = 1

        def __init__(self, level: int) -> None:
            pass

    class Parser:
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self.network = network

        def parse(self, graph: bytes) -> bool:
            self.network.graph = graph
            return True

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int) -> Any:
            own.networks.append(flags)
            return SimpleNamespace(graph=b"")

        def create_builder_config(self) -> Config:
            return Config(cuda.gpu)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Config) -> bytes:
            return head() + network.graph

    class Runtime:
        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, engine: bytes) -> FakeEngine | None:
            return FakeEngine(engine[len(head()) :]) if engine.startswith(head()) else None

    own.ILogger, own.Logger, own.OnnxParser, own.Builder, own.Runtime = ILogger, Logger, Parser, Builder, Runtime
    own.NetworkDefinitionCreationFlag = SimpleNamespace(**({"STRONGLY_TYPED": 1} if typed_by_flag else {}))
    own.BuilderFlag = SimpleNamespace(**({"TF32": "TF32"} if tf32 else {}))
    return trt


def install(monkeypatch: pytest.MonkeyPatch, cuda: Cuda, trt: ModuleType | None) -> None:
    """Put both where they are imported from; None: no TensorRT of either flavour."""
    above, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    names: dict[str, Any] = {"cuda": above, "cuda.bindings": bindings, "cuda.bindings.runtime": cuda}
    for name, module in {**names, "tensorrt": trt, "tensorrt_rtx": None}.items():
        monkeypatch.setitem(sys.modules, name, module)
