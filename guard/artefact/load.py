"""Open a guard from disk: an ONNX file, a TensorRT engine or a run folder."""

from __future__ import annotations

from pathlib import Path

from ..detector import Guard
from ..errors import ArtefactDamagedError, ArtefactNotFoundError, ConfigError
from ..manifest import Manifest
from ..paths import path_given
from .files import FOLDER_MANIFEST, FOLDER_WEIGHTS, engine_manifest_path, read_onnx, read_pair


def opened(g: Guard | str | Path, *, device: str = "auto") -> Guard:
    """A guard as it is, or the one at a path."""
    return g if isinstance(g, Guard) else load(g, device=device)


def load(path: str | Path, *, device: str = "auto", threads: int | None = None, spinning: bool = True) -> Guard:
    """`guard.load`; `threads` and `spinning` go to ONNX Runtime (see `OnnxSession`)."""
    path = path_given(path, "the path of a guard")
    if not path.exists():
        raise ArtefactNotFoundError(
            f"no such guard: {path}; accepted: a .onnx file, a .engine file or a run folder "
            "(make one with guard.train, or: guard demo)"
        )
    if path.is_dir():
        return Guard.from_pretrained(path, device=device)
    if path.suffix == ".onnx":
        from ..runtimes.onnx_session import OnnxSession

        data, manifest = read_onnx(path)
        return Guard(manifest, OnnxSession(data, device=device, threads=threads, spinning=spinning), path=path)
    if path.suffix == ".engine":
        from ..runtimes.tensorrt_engine import TensorRTEngine

        if device == "cpu":
            raise ConfigError(f"{path} is a TensorRT engine, which runs on CUDA only; load the .onnx file for the CPU")
        data, manifest = read_pair(path, engine_manifest_path(path))
        return Guard(manifest, TensorRTEngine(data, manifest), path=path)
    raise ArtefactDamagedError(f"{path} is not a guard: accepted are a .onnx file, a .engine file or a run folder")


def manifest_of(path: str | Path) -> Manifest:
    """What `load` would find in the manifest, without a runtime; the file is checked all the same."""
    path = path_given(path, "the path of a guard")
    if path.is_dir():
        return read_pair(path / FOLDER_WEIGHTS, path / FOLDER_MANIFEST)[1]
    if path.suffix == ".engine":
        return read_pair(path, engine_manifest_path(path))[1]
    return read_onnx(path)[1]
