"""Open a guard from disk and write it again: an ONNX file, a TensorRT engine or a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..calibration.decision_rule import Decision
from ..detector import Guard
from ..errors import ArtefactDamagedError, ArtefactNotFoundError, ConfigError, MissingExtraError
from ..manifest import Manifest
from .files import (
    FOLDER_MANIFEST,
    FOLDER_WEIGHTS,
    graph_bytes,
    read_onnx,
    read_pair,
    write_onnx,
    write_pair,
)
from .onnx_defaults import graph_inputs, set_defaults


def load(path: str | Path, *, device: str = "auto", threads: int | None = None, spinning: bool = True) -> Guard:
    """`guard.load`; `threads` and `spinning` go to ONNX Runtime (see `OnnxSession`)."""
    path = Path(path)
    if not path.exists():
        raise ArtefactNotFoundError(
            f"no such guard: {path}; accepted: a .onnx file, a .engine file or a run folder "
            "(make one with guard.train, or: guard demo)"
        )
    if path.is_dir():
        return from_pretrained(path, device=device)
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


def engine_manifest_path(path: Path) -> Path:
    """``guard.engine`` -> ``guard.engine.json``, the manifest beside it."""
    return path.with_name(path.name + ".json")


def save(g: Guard, path: Path) -> Path:
    """`Guard.save`: the same weights with the guard's current manifest (its new calibration)."""
    source = g.path
    if source is not None and source.suffix == path.suffix == ".onnx":
        g.manifest = write_onnx(path, _recalibrated(graph_bytes(read_onnx(source)[0]), g.manifest), g.manifest)
        return path
    if source is not None and source.suffix == path.suffix == ".engine":
        engine, _ = read_pair(source, engine_manifest_path(source))
        g.manifest = write_pair(path, engine_manifest_path(path), engine, g.manifest)
        return path
    if getattr(g.runtime, "module", None) is not None and path.suffix not in (".onnx", ".engine"):
        return save_pretrained(g, path)
    raise ConfigError(
        f"a guard running on {g.runtime.name} cannot be saved as {path.name}; use guard.export to change the format"
    )


def _recalibrated(graph: bytes, manifest: Manifest) -> bytes:
    """The graph with the manifest's thresholds and temperature as its defaults."""
    decision, names = Decision.of(manifest), graph_inputs(graph)
    if decision.needs <= names:
        return set_defaults(graph, decision.defaults(names))
    try:
        from .._siblings import sibling

        return sibling("export.optional_inputs").recalibrated(graph, manifest)
    except ModuleNotFoundError as error:
        added = " and ".join(sorted(decision.needs - names))
        raise MissingExtraError(f"{error.name} (needed to add {added} to the graph)", "train") from error


def save_pretrained(g: Guard, folder: Path) -> Path:
    """Write a torch guard as guard.safetensors + guard.json; an exported guard keeps its own format (`Guard.save`)."""
    from .._siblings import sibling

    folder.mkdir(parents=True, exist_ok=True)
    weights = sibling("train.engine.checkpoint").weights_bytes(g.module)
    manifest = write_pair(folder / FOLDER_WEIGHTS, folder / FOLDER_MANIFEST, weights, g.manifest)
    g.manifest = manifest
    return folder


def from_pretrained(folder: str | Path, *, device: str = "auto", model: Any = None) -> Guard:
    """`Guard.from_pretrained`."""
    path = Path(folder)
    if not path.is_dir():
        path = _from_hub(str(folder))
    if not (path / FOLDER_MANIFEST).exists():
        found = sorted(p.name for p in path.iterdir())[:8]
        raise ArtefactNotFoundError(
            f"{path} is not a run folder: it has no {FOLDER_MANIFEST} (found: {', '.join(found) or 'nothing'}); "
            "a run that was not finished is continued with guard.train(..., resume=True)"
        )
    weights, manifest = read_pair(path / FOLDER_WEIGHTS, path / FOLDER_MANIFEST)
    try:
        from .._siblings import sibling

        build = sibling("train.classifiers.rebuild")
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"{error.name} (needed for a run folder; an exported .onnx file runs without it)", "train"
        ) from error
    return build.guard_from_folder(manifest, weights, device=device, model=model)


def _from_hub(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ArtefactNotFoundError(f"no such folder: {name}; accepted: a run folder, or a hub id user/name")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "train") from error
    try:
        return Path(snapshot_download(name, allow_patterns=[FOLDER_MANIFEST, FOLDER_WEIGHTS]))
    except Exception as error:
        raise ArtefactNotFoundError(f"no folder {name}, and no such repository on the hub ({error})") from error
