"""Open a guard from disk: an ONNX file, a TensorRT engine or a run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..detector import Guard
from ..errors import ArtefactDamagedError, ArtefactNotFoundError, ConfigError
from ..manifest import Manifest
from ..paths import path_given
from ..runtimes import Runtime
from ..runtimes.int8_kernels import exact_in_int8
from .files import FOLDER_MANIFEST, FOLDER_WEIGHTS, engine_manifest_path, read_onnx, read_pair

RUNTIMES = ("auto", "onnxruntime", "onnxruntime-tensorrt", "tensorrt", "openvino")


def opened(g: Guard | str | Path, *, device: str = "auto", runtime: str = "auto") -> Guard:
    """A guard as it is, or the one at a path.

    Raises:
        ConfigError: a guard that runs on something else than `runtime` or `device`.
    """
    if not isinstance(g, Guard):
        return load(g, device=device, runtime=runtime)
    here = g.runtime
    if runtime not in ("auto", here.name) and not (runtime == "tensorrt" and here.name == "tensorrt_rtx"):
        raise ConfigError(f"this guard runs on {here.name}, not on {runtime}; give the path of its .onnx file")
    if device not in ("auto", here.device):
        raise ConfigError(f"this guard runs on {here.device}, not on {device}; give its path")
    return g


def load(
    path: str | Path,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    tuned_for: str = "latency",
    warm_up: Sequence[int] = (),
    cache: Path | None = None,
) -> Guard:
    """`guard.load`; what a runtime has no use for, it does not read."""
    path = path_given(path, "the path of a guard")
    _check_runtime(runtime, path)
    if not path.exists():
        raise ArtefactNotFoundError(
            f"no such guard: {path}; accepted: a .onnx file, a .engine file or a run folder "
            "(make one with guard.train, or: guard demo)"
        )
    if path.is_dir():
        g = Guard.from_pretrained(path, device=device)
    elif path.suffix == ".onnx":
        g = _onnx(path, device, runtime, threads, tuned_for, cache)
    elif path.suffix == ".engine":
        from .engines import open_engine

        _on_a_gpu(path, device)
        g = Guard(*open_engine(path, cache), path=path)
    else:
        raise ArtefactDamagedError(f"{path} is not a guard: accepted are a .onnx file, a .engine file or a run folder")
    _warm_up(g.runtime, g.manifest, warm_up)
    return g


def _onnx(path: Path, device: str, runtime: str, threads: int | None, tuned_for: str, cache: Path | None) -> Guard:
    """An .onnx file in the runtime that was asked for."""
    data, manifest = read_onnx(path)
    if runtime == "tensorrt":
        from .engines import engine_of

        _on_a_gpu(path, device)
        return Guard(*engine_of(path, data, manifest, cache), path=path)
    if runtime == "openvino":
        from ..runtimes.openvino_model import OpenVINOModel

        model = OpenVINOModel(
            data, device=device, threads=threads, tuned_for=tuned_for, integers=exact_in_int8(manifest)
        )
        return Guard(manifest, model, path=path)
    from ..runtimes.onnx_session import OnnxSession

    if runtime == "onnxruntime-tensorrt" and cache is not None:  # its engines do not say what they were made of
        cache = cache / hashlib.sha256(data).hexdigest()[:16]
    session = OnnxSession(
        data,
        device=device,
        runtime="onnxruntime" if runtime == "auto" else runtime,
        threads=threads,
        tuned_for=tuned_for,
        cache=cache,
        precision=manifest.precision,
        integers=exact_in_int8(manifest),
    )
    return Guard(manifest, session, path=path)


def _on_a_gpu(path: Path, device: str) -> None:
    """Raises: ConfigError: TensorRT was asked to run on something else."""
    if device == "cpu":
        what = "is a TensorRT engine, which" if path.suffix == ".engine" else "was asked to run in TensorRT, which"
        raise ConfigError(f"{path} {what} runs on CUDA only; load the .onnx file for the CPU")
    if device not in ("auto", "cuda"):
        raise ConfigError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")


def _warm_up(runtime: Runtime, manifest: Manifest, batches: Sequence[int]) -> None:
    """Run each batch size once: what is compiled, timed or taken at the first run of a size is not when it counts."""
    p = manifest.preprocess
    for n in batches:
        runtime.run(np.zeros((n, p.height, p.width, p.channels), np.uint8))
    keep = getattr(runtime, "keep_compiled", None)
    if batches and keep is not None:
        keep()


def _check_runtime(runtime: str, path: Path) -> None:
    """Raises: ConfigError: one that there is not, or that runs no such artefact."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    engine = runtime == "tensorrt" and path.suffix == ".engine"
    if runtime != "auto" and path.suffix != ".onnx" and not engine:
        raise ConfigError(f"runtime={runtime!r} runs .onnx files, got {path}; export the guard, or use runtime='auto'")


def manifest_of(path: str | Path) -> Manifest:
    """What `load` would find in the manifest, without a runtime; the file is checked all the same."""
    path = path_given(path, "the path of a guard")
    if path.is_dir():
        return read_pair(path / FOLDER_WEIGHTS, path / FOLDER_MANIFEST)[1]
    if path.suffix == ".engine":
        return read_pair(path, engine_manifest_path(path))[1]
    return read_onnx(path)[1]
