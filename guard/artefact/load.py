"""Open a guard from disk: an ONNX file, a TensorRT engine or a run folder."""

from __future__ import annotations

from pathlib import Path

from ..detector import Guard
from ..errors import ArtefactDamagedError, ArtefactNotFoundError, ConfigError, RuntimeUnavailableError
from ..manifest import Manifest
from ..paths import path_given
from .files import FOLDER_MANIFEST, FOLDER_WEIGHTS, engine_manifest_path, read_onnx, read_pair

RUNTIMES = ("auto", "onnxruntime", "openvino")


def opened(g: Guard | str | Path, *, device: str = "auto", runtime: str = "auto") -> Guard:
    """A guard as it is, or the one at a path.

    Raises:
        ConfigError: a guard that runs on something else than `runtime`.
    """
    if not isinstance(g, Guard):
        return load(g, device=device, runtime=runtime)
    if runtime not in ("auto", g.runtime.name):
        raise ConfigError(f"this guard runs on {g.runtime.name}, not on {runtime}; give the path of its .onnx file")
    return g


def load(
    path: str | Path,
    *,
    device: str = "auto",
    runtime: str = "auto",
    threads: int | None = None,
    spinning: bool = True,
) -> Guard:
    """`guard.load`; `threads` and `spinning` go to ONNX Runtime (see `OnnxSession`)."""
    path = path_given(path, "the path of a guard")
    _check_runtime(runtime, path)
    if not path.exists():
        raise ArtefactNotFoundError(
            f"no such guard: {path}; accepted: a .onnx file, a .engine file or a run folder "
            "(make one with guard.train, or: guard demo)"
        )
    if path.is_dir():
        return Guard.from_pretrained(path, device=device)
    if path.suffix == ".onnx":
        data, manifest = read_onnx(path)
        if runtime == "openvino":
            from ..runtimes.openvino_model import OpenVINOModel

            return Guard(manifest, OpenVINOModel(data, device=device, threads=threads), path=path)
        from ..runtimes.onnx_session import OnnxSession, resolve_device

        if manifest.precision == "bf16" and resolve_device(device) == "cpu":
            raise RuntimeUnavailableError(
                f"{path} computes in bfloat16, which ONNX Runtime does on CUDA alone; load it with runtime='openvino', "
                "or export the guard in fp32, fp16 or int8 for the CPU"
            )
        return Guard(manifest, OnnxSession(data, device=device, threads=threads, spinning=spinning), path=path)
    if path.suffix == ".engine":
        from ..runtimes.tensorrt_engine import TensorRTEngine

        if device == "cpu":
            raise ConfigError(f"{path} is a TensorRT engine, which runs on CUDA only; load the .onnx file for the CPU")
        data, manifest = read_pair(path, engine_manifest_path(path))
        return Guard(manifest, TensorRTEngine(data, manifest), path=path)
    raise ArtefactDamagedError(f"{path} is not a guard: accepted are a .onnx file, a .engine file or a run folder")


def _check_runtime(runtime: str, path: Path) -> None:
    """Raises: ConfigError: one that there is not, or that runs no such artefact."""
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if runtime != "auto" and path.suffix != ".onnx":
        raise ConfigError(f"runtime={runtime!r} runs .onnx files, got {path}; export the guard, or use runtime='auto'")


def manifest_of(path: str | Path) -> Manifest:
    """What `load` would find in the manifest, without a runtime; the file is checked all the same."""
    path = path_given(path, "the path of a guard")
    if path.is_dir():
        return read_pair(path / FOLDER_WEIGHTS, path / FOLDER_MANIFEST)[1]
    if path.suffix == ".engine":
        return read_pair(path, engine_manifest_path(path))[1]
    return read_onnx(path)[1]
