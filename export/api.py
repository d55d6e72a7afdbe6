"""What `guard.export` calls: write to a temporary file, verify it, and only then give it its name."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from guard.artefact.files import (
    engine_manifest_path,
    engine_source_path,
    graph_bytes,
    write_onnx,
    write_pair,
)
from guard.artefact.load import load, opened
from guard.artefact.places import writable_file
from guard.artefact.save import read_again, save
from guard.data import ImageData
from guard.data import load as load_images
from guard.data.test_images import calibration_images
from guard.detector import Guard
from guard.errors import ConfigError, DataError, MissingDataError
from guard.export_requests import ExportRequest
from guard.exported import Exemplars, Parity
from guard.manifest import Manifest
from guard.record import changed

from .exemplars import AT_MOST, chosen
from .optional_inputs import recalibrated
from .parity import compare, on_its_own, passed
from .triton import next_version, write_model

log = logging.getLogger("ood_guard")


def export(request: ExportRequest) -> Path:
    """`guard.export`."""
    path = request.path
    if given := changed(request, ("min_batch", "opt_batch") if path.suffix != ".engine" else ()):
        raise ConfigError(f"{given[0]}= is an engine's, and {path.name!r} is none; drop it, or end the path in .engine")
    if request.format == "triton":
        return _export_triton(request)
    _check_suffix(request)
    writable_file(path, "the exported file")
    if request.exemplars and path.suffix == ".engine":
        raise ConfigError(f"exemplars={request.exemplars} needs an .onnx file, got {path.name!r}; leave it out")
    source = opened(request.g)
    if source.manifest.precision != "fp32":
        raise ConfigError(
            f"the guard is in {source.manifest.precision} already; give the float32 one that it was made of"
        )
    if path.suffix == ".engine":
        return _export_engine(source, request)
    if request.exemplars and request.data is None and source.calibration_images is None:
        raise ConfigError(
            "exemplars= are taken from images, and none are at hand; give in-distribution ones with data="
        )
    exact = _graph(source, request)
    graph, manifest = _in_precision(source, exact, request)
    manifest = _verified(source, graph, manifest, request)
    if request.exemplars:
        manifest = manifest.model_copy(update={"exemplars": _exemplars(source, exact, request)})
    write_onnx(path, graph, manifest)
    return path


def _graph(source: Guard, request: ExportRequest) -> bytes:
    """The guard's graph in float32: a file's own, or what torch writes."""
    lower = request.precision != "fp32" or request.path.suffix == ".engine"
    if lower and not request.exemplars and source.path is not None and source.path.suffix == ".onnx":
        return recalibrated(graph_bytes(read_again(source)[0]), source.manifest)
    from .to_onnx import onnx_bytes

    return onnx_bytes(source.module, source.manifest, explained=bool(request.exemplars))


def _in_precision(source: Guard, graph: bytes, request: ExportRequest) -> tuple[bytes, Manifest]:
    """The float32 graph in the precision that is asked for, and the manifest that goes with it."""
    if request.precision == "fp32":
        return graph, source.manifest
    from .precision.calibrated import lowered

    found = lowered(source, graph, request)
    return found.graph, found.manifest


def _exemplars(source: Guard, graph: bytes, request: ExportRequest) -> Exemplars:
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.onnx"
        write_onnx(draft, graph, source.manifest)
        images, _ = _images(source, request.data, at_most=AT_MOST)
        features = bool(source.module.classifier.num_features)
        return chosen(load(draft, device="cpu"), images, request.exemplars, features=features)


def _check_suffix(request: ExportRequest) -> None:
    """Raises: ConfigError: a path that does not end as its format does."""
    suffixes = (".onnx", ".engine") if request.format == "auto" else (f".{request.format}",)
    if request.path.suffix not in suffixes:
        also = ", or give format='triton' for a model's folder" if request.format == "auto" else ""
        raise ConfigError(f"the exported file must end in {' or '.join(suffixes)}, got {request.path.name!r}{also}")


def _export_triton(request: ExportRequest) -> Path:
    """An exported file with the guard's calibration, or a fresh export, as the next version of the model."""
    next_version(request.path)
    source = opened(request.g)
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.onnx"
        if source.path is not None and source.path.suffix == ".onnx" and request.precision == "fp32":
            if request.exemplars:
                raise ConfigError(
                    f"{source.path} is taken as it is; give exemplars= with its run folder, or leave it out"
                )
            save(Guard(source.manifest, source.runtime, path=source.path), draft)  # the given one stays as it is
        else:
            export(request.model_copy(update={"g": source, "path": draft, "format": "onnx"}))
        return write_model(draft, request.path, max_batch=request.max_batch)


def _verified(source: Guard, graph: bytes, manifest: Manifest, request: ExportRequest) -> Manifest:
    """The manifest with the measured parity of `graph`, or ParityError."""
    if manifest.precision == "bf16":  # ONNX Runtime has no such kernels on the CPU; what it changes is measured already
        return manifest
    with TemporaryDirectory() as folder:
        draft = Path(folder) / "guard.onnx"
        write_onnx(draft, graph, manifest)
        report = compare(source, on_its_own(load(draft, device="cpu")), *_images(source, request.data))
    passed(report, _flips(report.images, request))
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
    return manifest.model_copy(update={"parity": report.parity})


def _flips(images: int, request: ExportRequest) -> int:
    """How many are allowed: below float32 the budget is one of accuracy and AUROC."""
    if request.max_flag_flips is not None:
        return request.max_flag_flips
    return 0 if request.precision == "fp32" else images


def _export_engine(source: Guard, request: ExportRequest) -> Path:
    """The engine with its manifest, and the ONNX file that it was built of."""
    from .to_tensorrt import build_engine

    path = request.path
    least, tuned, most = _batches(request)
    graph, manifest = _in_precision(source, _graph(source, request), request)
    with TemporaryDirectory() as folder:
        draft, timings = Path(folder) / "guard.engine", path.with_name(path.name + ".timing")
        engine, facts = build_engine(
            graph, manifest, min_batch=least, opt_batch=tuned, max_batch=most, timing_cache=timings
        )
        built = manifest.model_copy(update={"engine": facts, "parity": None, "exemplars": None})
        write_pair(draft, engine_manifest_path(draft), engine, built)
        parity = _engine_parity(source, draft, request)
    write_onnx(engine_source_path(path), graph, manifest.model_copy(update={"parity": None}))
    write_pair(path, engine_manifest_path(path), engine, built.model_copy(update={"parity": parity}))
    return path


def _batches(request: ExportRequest) -> tuple[int, int, int]:
    """The engine's smallest, tuned and largest batch."""
    from .to_tensorrt import check_batches

    least, most = request.min_batch, request.max_batch
    tuned = request.opt_batch if request.opt_batch is not None else min(max(8, least), most)
    check_batches(least, tuned, most)
    return least, tuned, most


def _engine_parity(source: Guard, draft: Path, request: ExportRequest) -> Parity | None:
    """Measured where there is a GPU to run the engine on; elsewhere None, which is logged."""
    from guard.runtimes.gpu import cuda_available

    if not cuda_available():
        log.warning("no GPU here: the engine was built but not run; run guard.verify on the machine that will serve it")
        return None
    report = compare(source, load(draft, device="cuda"), *_images(source, request.data))
    return passed(report, _flips(report.images, request)).parity


def _images(source: Guard, data: Any, at_most: int | None = None) -> tuple[Any, np.ndarray | None]:
    """(batches, labels) to verify on: the given data, else the calibration images right after training, else noise.
    Of more than `at_most` images every so many-th, so that every class of a sorted folder is among them.

    Of the data that the guard was made from, what it held out: the rest was learned, and takes long.
    """
    held = source.calibration_images
    if data is None and held is not None:
        held = _thinned(held, at_most)
        return (batch for batch, _ in held.batches(64)), held.labels if held.class_names == source.class_names else None
    if data is None:
        return _noise(source.manifest), None
    try:
        loaded, _, _ = calibration_images(source.manifest, data, labelled=False)
    except MissingDataError:
        raise
    except DataError:  # all of them were trained on: the numbers can be compared all the same
        loaded = load_images(data, preprocess=source.manifest.preprocess, labelled=False)
    return (batch for batch, _ in _thinned(loaded, at_most).batches(64)), None


def _thinned(images: ImageData, at_most: int | None) -> ImageData:
    if at_most is None or len(images) <= at_most:
        return images
    return images.subset(np.linspace(0, len(images) - 1, at_most).astype(np.int64))


def _noise(manifest: Manifest, batches: int = 4, size: int = 32) -> list[np.ndarray]:
    """Uniform noise at several contrasts around several grey levels, by a fixed seed."""
    p = manifest.preprocess
    random = np.random.default_rng(0)
    shape = (size, p.height, p.width, p.channels)
    centre = random.uniform(32, 224, (batches, size, 1, 1, p.channels))
    spread = random.uniform(0, 128, (batches, size, 1, 1, 1))
    noise = random.uniform(-1, 1, (batches, *shape))
    return list((centre + spread * noise).clip(0, 255).astype(np.uint8))
