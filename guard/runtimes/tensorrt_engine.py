"""TensorRT behind the `Runtime` protocol. Needs a CUDA GPU, the engine's own TensorRT flavour, and cuda-bindings.

Buffers are allocated once for the largest batch; a run copies in, enqueues and copies out on one stream.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from ..calibration.decision_rule import CLASS_OFFSETS, INVERSE_TEMPERATURE, Decision
from ..errors import ConfigError, MissingExtraError, RuntimeUnavailableError
from ..exported import Engine
from ..manifest import Manifest
from . import Outputs, check_images

_OUTPUTS = ("label", "probabilities", "ood_score", "is_ood")


def cuda_available() -> bool:
    """Whether cuda-bindings is installed and sees a GPU."""
    try:
        from cuda.bindings import runtime as cudart
    except ImportError:
        return False
    status, count = cudart.cudaGetDeviceCount()
    return int(status) == 0 and bool(count)


class TensorRTEngine:
    """Runs a serialised guard engine.

    Args:
        engine: the checked bytes (`guard.artefact.files.read_pair`).
        manifest: names the flavour and version the engine was built with, its largest batch and input size.

    Raises:
        MissingExtraError: that flavour, or cuda-bindings, is not installed.
        RuntimeUnavailableError: no GPU, another version, or an engine that this GPU cannot run.
    """

    device = "cuda"

    def __init__(self, engine: bytes, manifest: Manifest) -> None:
        facts = manifest.engine
        if facts is None:
            raise ConfigError(
                "this manifest does not belong to a TensorRT engine; export one: guard.export(g, 'guard.engine')"
            )
        self.name = facts.flavour
        trt = _flavour(facts)
        try:
            from cuda.bindings import runtime as cudart
        except ImportError as error:
            raise MissingExtraError("cuda-bindings (needed to run a TensorRT engine)", "tensorrt-rtx") from error
        if not cuda_available():
            raise RuntimeUnavailableError(
                "a TensorRT engine runs on a CUDA GPU and this machine shows none; load the .onnx file instead"
            )
        self._cuda = cudart
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise RuntimeUnavailableError(
                f"this GPU cannot run the engine, which was built by {facts.flavour} {facts.version} for "
                f"{', '.join(facts.compute_capabilities)}; export it again on this machine"
            )
        self._context = self._engine.create_execution_context()
        self._stream = self._check(cudart.cudaStreamCreate())
        self._max_batch = facts.max_batch
        p = manifest.preprocess
        self._shape = (p.height, p.width, p.channels)
        self._decision = Decision.of(manifest)
        tensors = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        self.optional_inputs = frozenset(tensors & {CLASS_OFFSETS, INVERSE_TEMPERATURE})
        sizes = {
            "images": self._max_batch * p.height * p.width * p.channels,
            "threshold": 4,
            **{name: value.nbytes for name, value in self._decision.inputs(self.optional_inputs).items()},
            "label": 8 * self._max_batch,
            "probabilities": 4 * self._max_batch * len(manifest.class_names),
            "ood_score": 4 * self._max_batch,
            "is_ood": self._max_batch,
        }
        self._classes = len(manifest.class_names)
        self._buffers = {name: self._check(cudart.cudaMalloc(size)) for name, size in sizes.items()}
        for name, address in self._buffers.items():
            self._context.set_tensor_address(name, int(address))

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs:
        """See `guard.runtimes`; batches above the engine's largest are run in parts. An engine has no defaults: inputs
        that are not given get the manifest's values."""
        check_images(images, self._shape)
        limit = self._decision.threshold if threshold is None else threshold
        given = {"threshold": np.array(limit, np.float32), **self._decision.inputs(self.optional_inputs), **optional}
        step = self._max_batch
        parts = [self._run(images[start : start + step], given) for start in range(0, len(images), step)]
        if len(parts) == 1:
            return parts[0]
        return Outputs(*(np.concatenate([getattr(part, name) for part in parts]) for name in _OUTPUTS))

    def _run(self, images: np.ndarray, given: dict[str, np.ndarray]) -> Outputs:
        given = {name: np.ascontiguousarray(array) for name, array in {"images": images, **given}.items()}
        n = len(images)
        outputs = Outputs(
            np.empty(n, np.int64),
            np.empty((n, self._classes), np.float32),
            np.empty(n, np.float32),
            np.empty(n, np.bool_),
        )
        kind = self._cuda.cudaMemcpyKind
        self._context.set_input_shape("images", images.shape)
        for name, array in given.items():
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, kind.cudaMemcpyHostToDevice)
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeUnavailableError(f"the TensorRT engine failed on a batch of {n} images")
        for name in _OUTPUTS:
            array = getattr(outputs, name)
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, kind.cudaMemcpyDeviceToHost)
        self._check(self._cuda.cudaStreamSynchronize(self._stream))
        return outputs

    def _copy(self, target: Any, source: Any, size: int, kind: Any) -> None:
        self._check(self._cuda.cudaMemcpyAsync(target, source, size, kind, self._stream))

    def _check(self, result: tuple[Any, ...]) -> Any:
        """The value of a CUDA call, or RuntimeUnavailableError with CUDA's own name of the failure."""
        status, *value = result
        if int(status) != 0:
            raise RuntimeUnavailableError(f"CUDA failed with {getattr(status, 'name', status)}")
        return value[0] if value else None

    def close(self) -> None:
        """Free the device buffers and the stream."""
        for address in self._buffers.values():
            self._cuda.cudaFree(address)
        self._buffers = {}
        self._cuda.cudaStreamDestroy(self._stream)


def _flavour(facts: Engine) -> Any:
    try:
        trt = importlib.import_module(facts.flavour)
    except ImportError as error:
        extra = "tensorrt-rtx" if facts.flavour == "tensorrt_rtx" else "tensorrt"
        raise MissingExtraError(f"{facts.flavour} (the flavour this engine was built with)", extra) from error
    if trt.__version__.split(".")[:2] != facts.version.split(".")[:2]:
        raise RuntimeUnavailableError(
            f"the engine was built with {facts.flavour} {facts.version}, installed is {trt.__version__}; "
            "export it again, or install that version"
        )
    return trt
