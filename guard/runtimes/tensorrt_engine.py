"""TensorRT behind the `Runtime` protocol. Needs a CUDA GPU, the engine's own TensorRT flavour, and cuda-bindings.

Memory is taken once for the largest batch; a run copies pixels in, enqueues and copies answers out on one stream.
`guard.artefact.engines` opens an engine's file, and builds it again where it does not fit this machine.
"""

from __future__ import annotations

import importlib
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ..artefact.files import write_atomic
from ..calibration.decision_rule import CLASS_OFFSETS, INVERSE_TEMPERATURE, Decision
from ..errors import ConfigError, EngineMismatchError, MissingExtraError, RuntimeUnavailableError
from ..exported import Engine
from ..manifest import Manifest
from . import Outputs, check_images
from .cuda_buffers import CudaBuffers
from .gpu import Gpu, cuda_runtime, this_gpu

log = logging.getLogger("ood_guard")

OUTPUTS = ("label", "probabilities", "ood_score", "is_ood")
_UNKNOWN = frozenset({"current", "CURRENT"})  # what older files say of the GPU they were built on


class TensorRTEngine:
    """Runs a serialised guard engine, in one thread at a time.

    Args:
        engine: the checked bytes (`guard.artefact.files.read_pair`).
        manifest: names the flavour and version the engine was built with, its batches and input size.
        compiled: where tensorrt_rtx keeps what it compiles for this GPU (its runtime cache); None: nowhere.

    Raises:
        MissingExtraError: that flavour, or cuda-bindings, is not installed.
        EngineMismatchError: another version or GPU than the engine's, or more outputs than a guard's four.
        RuntimeUnavailableError: there is no GPU.
    """

    device = "cuda"

    def __init__(self, engine: bytes, manifest: Manifest, compiled: Path | None = None) -> None:
        facts = manifest.engine
        if facts is None:
            raise ConfigError(
                "this manifest does not belong to a TensorRT engine; export one: guard.export(g, 'guard.engine')"
            )
        trt, self.name = _flavour(facts), facts.flavour
        check_gpu(facts, this_gpu())
        self._least, self._most, self._compiled = facts.min_batch, facts.max_batch, compiled
        p = manifest.preprocess
        self._shape = (p.height, p.width, p.channels)
        self._decision = Decision.of(manifest)
        self._one_at_a_time = threading.Lock()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = _deserialised(self._runtime, engine, facts)
        self._context, self._runtime_cache = _context(self._engine, compiled)
        tensors = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if more := tensors - {"images", "threshold", CLASS_OFFSETS, INVERSE_TEMPERATURE, *OUTPUTS}:
            raise EngineMismatchError(
                f"the engine has outputs that only an .onnx file can have: {', '.join(sorted(more))}"
            )
        self.optional_inputs = frozenset(tensors & {CLASS_OFFSETS, INVERSE_TEMPERATURE})
        n = self._most
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "images": ((n, *self._shape), np.uint8),
            "threshold": ((), np.float32),
            **{name: (value.shape, np.float32) for name, value in self._decision.inputs(self.optional_inputs).items()},
            "label": ((n,), np.int64),
            "probabilities": ((n, len(manifest.class_names)), np.float32),
            "ood_score": ((n,), np.float32),
            "is_ood": ((n,), np.bool_),
        }
        self._buffers = CudaBuffers(cuda_runtime(), shapes)
        for name, address in self._buffers.addresses.items():
            self._context.set_tensor_address(name, address)

    def run(self, images: np.ndarray, threshold: float | None = None, **optional: np.ndarray) -> Outputs:
        """See `guard.runtimes`; batches above the engine's largest are run in parts, below its smallest filled up. An
        engine has no defaults: inputs that are not given get the manifest's values."""
        check_images(images, self._shape)
        limit = self._decision.threshold if threshold is None else threshold
        given = {"threshold": np.array(limit, np.float32), **self._decision.inputs(self.optional_inputs), **optional}
        with self._one_at_a_time:
            for name, array in given.items():
                self._buffers.send(name, array)
            starts = range(0, len(images), self._most)
            parts = [self._run(images[start : start + self._most]) for start in starts]
        return parts[0] if len(parts) == 1 else Outputs(*map(np.concatenate, zip(*map(_fields, parts), strict=True)))

    def _run(self, images: np.ndarray) -> Outputs:
        n = self._buffers.send_rows("images", images, self._least)
        self._context.set_input_shape("images", (n, *self._shape))
        if not self._context.execute_async_v3(int(self._buffers.stream)):
            raise RuntimeUnavailableError(f"the TensorRT engine failed on a batch of {n} images")
        return Outputs(*self._buffers.fetch_rows(OUTPUTS, len(images)))

    def keep_compiled(self) -> None:
        """Write what tensorrt_rtx compiled since the start, so that the next start need not; of others nothing."""
        if self._runtime_cache is not None and self._compiled is not None:
            write_atomic(self._compiled, bytes(self._runtime_cache.serialize()))

    def close(self) -> None:
        """Free the buffers and the stream."""
        self._buffers.close()


def check_gpu(facts: Engine, gpu: Gpu) -> None:
    """Raises: EngineMismatchError: the engine was built for another GPU."""
    listed = set(facts.compute_capabilities)
    if (listed & _UNKNOWN or gpu.capability in listed) and facts.gpu in ("", gpu.name):
        return
    built = facts.gpu or ", ".join(facts.compute_capabilities)
    raise EngineMismatchError(f"the engine was built for {built}, and this GPU is {gpu.name} ({gpu.capability})")


def _fields(outputs: Outputs) -> list[np.ndarray]:
    return [getattr(outputs, name) for name in OUTPUTS]


def _deserialised(runtime: Any, engine: bytes, facts: Engine) -> Any:
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        raise EngineMismatchError(
            f"this GPU cannot run the engine, which was built by {facts.flavour} {facts.version} for "
            f"{facts.gpu or ', '.join(facts.compute_capabilities)}"
        )
    return loaded


def _context(engine: Any, compiled: Path | None) -> tuple[Any, Any]:
    """An execution context, and tensorrt_rtx's runtime cache that it fills (None for other flavours)."""
    config = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
    if config is None or not hasattr(config, "create_runtime_cache"):
        return engine.create_execution_context(), None
    cache = config.create_runtime_cache()
    if compiled is not None and compiled.exists() and not cache.deserialize(compiled.read_bytes()):
        log.info("%s is of another machine or version, or damaged: it is made anew", compiled)
    config.set_runtime_cache(cache)
    return engine.create_execution_context(config), cache


def _flavour(facts: Engine) -> Any:
    try:
        trt = importlib.import_module(facts.flavour)
    except ImportError as error:
        extra = "tensorrt-rtx" if facts.flavour == "tensorrt_rtx" else "tensorrt"
        raise MissingExtraError(f"{facts.flavour} (the flavour this engine was built with)", extra) from error
    if trt.__version__.split(".")[:3] != facts.version.split(".")[:3]:
        raise EngineMismatchError(
            f"the engine was built with {facts.flavour} {facts.version}, installed is {trt.__version__}"
        )
    return trt
