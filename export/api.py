"""What `guard.export` calls: write to a temporary file, verify it, and only then give it its name."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from guard.artefact.files import engine_manifest_path, graph_bytes, read_onnx, write_onnx, write_pair
from guard.artefact.load import load, opened
from guard.artefact.places import writable_file
from guard.data import load as load_images
from guard.detector import Guard
from guard.errors import ConfigError
from guard.manifest import Exemplars, Manifest, Parity
from guard.requests import ExportRequest

from .exemplars import chosen
from .optional_inputs import recalibrated
from .parity import compare, on_its_own, passed
from .to_onnx import onnx_bytes
from .triton import next_version, write_model

log = logging.getLogger("ood_guard")

PRECISIONS = ("fp32",)


def export(request: ExportRequest) -> Path:
    """`guard.export`."""
    path = request.path
    if request.precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {request.precision!r}")
    if request.format == "triton":
        return _export_triton(request)
    _check_suffix(request)
    writable_file(path, "the exported file")
    if request.exemplars and path.suffix == ".engine":
        raise ConfigError(f"exemplars={request.exemplars} needs an .onnx file, got {path.name!r}; leave it out")
    source = opened(request.g)
    if path.suffix == ".engine":
        return _export_engine(source, request)
    if request.exemplars and request.data is None and source.calibration_images is None:
        raise ConfigError(
            "exemplars= are taken from images, and none are at hand; give in-distribution ones with data="
        )
    graph = onnx_bytes(source.module, source.manifest, explained=bool(request.exemplars))
    manifest = _verified(source, graph, request)
    if request.exemplars:
        manifest = manifest.model_copy(update={"exemplars": _exemplars(source, graph, request)})
    write_onnx(path, graph, manifest)
    return path


def _exemplars(source: Guard, graph: bytes, request: ExportRequest) -> Exemplars:
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.onnx"
        write_onnx(draft, graph, source.manifest)
        images, _ = _images(source, request.data)
        features = bool(source.module.classifier.num_features)
        return chosen(load(draft, device="cpu"), images, request.exemplars, features=features)


def _check_suffix(request: ExportRequest) -> None:
    """Raises: ConfigError: a path that does not end as its format does."""
    suffixes = (".onnx", ".engine") if request.format == "auto" else (f".{request.format}",)
    if request.path.suffix not in suffixes:
        also = ", or give format='triton' for a model's folder" if request.format == "auto" else ""
        raise ConfigError(f"the exported file must end in {' or '.join(suffixes)}, got {request.path.name!r}{also}")


def _export_triton(request: ExportRequest) -> Path:
    """An exported file as it is, or a fresh export, as the next version of the model."""
    next_version(request.path)
    source = opened(request.g)
    if source.path is not None and source.path.suffix == ".onnx":
        if request.exemplars:
            raise ConfigError(f"{source.path} is taken as it is; give exemplars= with its run folder, or leave it out")
        return write_model(source, source.path, request.path, max_batch=request.max_batch)
    with TemporaryDirectory() as folder:
        fresh = request.model_copy(update={"g": source, "path": Path(folder) / "guard.onnx", "format": "onnx"})
        return write_model(source, export(fresh), request.path, max_batch=request.max_batch)


def _verified(source: Guard, graph: bytes, request: ExportRequest) -> Manifest:
    """The manifest with the measured parity of `graph`, or ParityError."""
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.onnx"
        write_onnx(draft, graph, source.manifest)
        report = compare(source, on_its_own(load(draft, device="cpu")), *_images(source, request.data))
    passed(report, request.max_flag_flips)
    noise = (
        ""
        if request.data is not None or source.calibration_images is not None
        else " of noise (give data= for real ones)"
    )
    log.info(
        "verified on %d images%s, %s -> %s: %d flag flips, %d label changes, scores within %.2g",
        report.images,
        noise,
        report.source_runtime,
        report.runtime,
        report.flag_flips,
        report.label_changes,
        report.max_score_difference,
    )
    return source.manifest.model_copy(update={"parity": report.parity})


def _export_engine(source: Guard, request: ExportRequest) -> Path:
    from .to_tensorrt import build_engine

    if source.path is not None and source.path.suffix == ".onnx":
        graph = recalibrated(graph_bytes(read_onnx(source.path)[0]), source.manifest)
    else:
        graph = onnx_bytes(source.module, source.manifest)
    engine, facts = build_engine(graph, source.manifest, max_batch=request.max_batch)
    manifest = source.manifest.model_copy(update={"engine": facts, "parity": None})
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.engine"
        write_pair(draft, engine_manifest_path(draft), engine, manifest)
        parity = _engine_parity(source, draft, request)
    path, manifest = request.path, manifest.model_copy(update={"parity": parity})
    write_pair(path, engine_manifest_path(path), engine, manifest)
    return path


def _engine_parity(source: Guard, draft: Path, request: ExportRequest) -> Parity | None:
    """Measured where there is a GPU to run the engine on; elsewhere None, which is logged."""
    from guard.runtimes.tensorrt_engine import cuda_available

    if not cuda_available():
        log.warning("no GPU here: the engine was built but not run; run guard.verify on the machine that will serve it")
        return None
    report = compare(source, load(draft, device="cuda"), *_images(source, request.data))
    return passed(report, request.max_flag_flips).parity


def _images(source: Guard, data: Any) -> tuple[Any, np.ndarray | None]:
    """(batches, labels) to verify on: the given data, else the calibration images right after training, else noise."""
    held = source.calibration_images
    if data is None and held is not None:
        return (batch for batch, _ in held.batches(64)), held.labels if held.class_names == source.class_names else None
    if data is None:
        return _noise(source.manifest), None
    loaded = load_images(data, preprocess=source.manifest.preprocess, labelled=False)
    return (batch for batch, _ in loaded.batches(64)), None


def _noise(manifest: Manifest, batches: int = 4, size: int = 32) -> list[np.ndarray]:
    """Uniform noise at several contrasts around several grey levels, by a fixed seed."""
    p = manifest.preprocess
    random = np.random.default_rng(0)
    shape = (size, p.height, p.width, p.channels)
    centre = random.uniform(32, 224, (batches, size, 1, 1, p.channels))
    spread = random.uniform(0, 128, (batches, size, 1, 1, 1))
    noise = random.uniform(-1, 1, (batches, *shape))
    return list((centre + spread * noise).clip(0, 255).astype(np.uint8))
