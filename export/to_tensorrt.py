"""ONNX graph -> serialised TensorRT engine with a dynamic batch.

Two flavours share one API. `tensorrt` builds on the GPU that will run the engine; `tensorrt_rtx` also builds on
machines without a GPU, for the compute capabilities it lists (a driver-less machine prints a harmless cudaError 35).
Networks are strongly typed: precision comes from the graph.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx

from guard.errors import ConfigError, ExportError, MissingExtraError
from guard.exported import Engine
from guard.graph.onnx_nodes import prune
from guard.manifest import Manifest
from guard.runtimes.gpu import Gpu, cuda_available, this_gpu
from guard.runtimes.tensorrt_engine import OUTPUTS

from .timings import Timings

FLAVOURS = ("tensorrt", "tensorrt_rtx")


def installed_flavour() -> ModuleType:
    """The TensorRT module that is installed, `tensorrt` first."""
    for name in FLAVOURS:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingExtraError("neither tensorrt nor tensorrt_rtx (needed for .engine files)", "tensorrt-rtx")


def build_engine(
    graph: bytes,
    manifest: Manifest,
    *,
    max_batch: int = 256,
    min_batch: int = 1,
    opt_batch: int = 8,
    timing_cache: Path | None = None,
    trt: ModuleType | None = None,
) -> tuple[bytes, Engine]:
    """Parse and build.

    Args:
        graph: a serialised guard graph (`export.to_onnx.onnx_bytes`).
        max_batch, min_batch: largest and smallest N the engine will take.
        opt_batch: the N it is tuned for; at most `max_batch` is taken.
        timing_cache: file with what earlier builds timed, written anew; tensorrt_rtx times nothing at a build.

    Returns:
        The engine's bytes, and the facts that decide where it runs.

    Raises:
        ConfigError: batches that are not in ascending order.
        ExportError: TensorRT refuses the graph; the message holds its first complaint.
    """
    opt_batch = min(opt_batch, max_batch)
    check_batches(min_batch, opt_batch, max_batch)
    trt = trt or installed_flavour()
    logger = _collector(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(engine_graph(graph)):
        raise ExportError(f"{trt.__name__} cannot parse this graph: {_complaint(parser, logger)}")
    config, gpu = builder.create_builder_config(), this_gpu() if cuda_available() else None
    capabilities = _target(trt, config, gpu)
    timings = Timings(trt, config, timing_cache) if timing_cache is not None else None
    _configure(trt, builder, config, manifest, (min_batch, opt_batch, max_batch))
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ExportError(f"{trt.__name__} cannot build this graph: {'; '.join(logger.errors[:2]) or 'no reason'}")
    if timings is not None:
        timings.keep()
    facts = Engine(
        flavour=trt.__name__,
        version=trt.__version__,
        compute_capabilities=tuple(capabilities),
        precision=manifest.precision,
        max_batch=max_batch,
        min_batch=min_batch,
        opt_batch=opt_batch,
        gpu="" if gpu is None else gpu.name,
        onnx_sha256=hashlib.sha256(graph).hexdigest(),
    )
    return bytes(engine), facts


def _configure(trt: ModuleType, builder: Any, config: Any, manifest: Manifest, batches: tuple[int, int, int]) -> None:
    """No TF32, and one profile of the smallest, the tuned and the largest batch."""
    if hasattr(trt.BuilderFlag, "TF32"):  # float32 means float32: TF32 moves scores across the threshold
        config.clear_flag(trt.BuilderFlag.TF32)
    p = manifest.preprocess
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *((n, p.height, p.width, p.channels) for n in batches))
    config.add_optimization_profile(profile)


def check_batches(min_batch: int, opt_batch: int, max_batch: int) -> None:
    """Raises: ConfigError: 1 <= min_batch <= opt_batch <= max_batch does not hold."""
    if max_batch < 1:
        raise ConfigError(f"max_batch must be at least 1, got {max_batch}")
    if not 1 <= min_batch <= opt_batch <= max_batch:
        raise ConfigError(
            f"an engine needs 1 <= min_batch <= opt_batch <= max_batch, got {min_batch}, {opt_batch} and {max_batch}; "
            "raise max_batch, or lower the others"
        )


def _strongly_typed(trt: ModuleType) -> int:
    """The flag of TensorRT 10; from 11 on every network is, and it may be gone."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def engine_graph(graph: bytes) -> bytes:
    """What an engine is built of: the guard's four outputs, and no defaults of its inputs (`threshold` and what a
    calibration added), for TensorRT would bake an initializer's value in as a constant."""
    model = onnx.load_from_string(graph)
    inputs = {i.name for i in model.graph.input}
    kept = [i for i in model.graph.initializer if i.name not in inputs]
    answers = [o for o in model.graph.output if o.name in OUTPUTS]
    del model.graph.initializer[:], model.graph.output[:]
    model.graph.initializer.extend(kept)
    model.graph.output.extend(answers)
    prune(model.graph)
    stripped: bytes = model.SerializeToString()
    return stripped


def _target(trt: ModuleType, config: Any, gpu: Gpu | None) -> list[str]:
    """Compute capabilities to build for: this machine's GPU, or all that tensorrt_rtx can build without one."""
    if not hasattr(trt, "ComputeCapability"):
        return ["current" if gpu is None else gpu.capability]
    if gpu is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
        return [gpu.capability]
    # Turing (SM75) compiles no float32 matrix product, so a float32 graph is built for Ampere and later
    members = trt.ComputeCapability.__members__.items()
    listed = [(name, capability) for name, capability in members if name.startswith("SM") and name != "SM75"]
    config.num_compute_capabilities = len(listed)
    for index, (_, capability) in enumerate(listed):
        config.set_compute_capability(capability, index)
    return [name for name, _ in listed]


def _collector(trt: ModuleType) -> Any:
    """A logger that keeps errors for our message instead of printing them."""

    class Collector(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Collector()


def _complaint(parser: Any, logger: Any) -> str:
    if parser.num_errors:
        error = parser.get_error(0)
        return f"{error.desc()} (node {error.node_name() or error.node()})"
    return "; ".join(logger.errors[:2]) or "no reason given"
